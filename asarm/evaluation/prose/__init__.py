"""Infilling of prose: stories by ROUGE, LAMBADA's last words, HellaSwag's endings."""
