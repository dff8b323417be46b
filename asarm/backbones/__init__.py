"""The networks that read rows with limits: `asarm.rows.Backbone` says what one has to offer."""
