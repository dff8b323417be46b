"""The networks that read rows with limits: `asarm.rows` says what one has to offer.

A `Backbone` can be sampled and scored, a `TrainableBackbone` also be trained, alone or with a draft
head. Every causal language model of transformers is one by `decoder`. A new network is a module
here, a line in `asarm.loading.BACKBONES`, and a test.
"""
