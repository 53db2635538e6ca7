"""Tables, figures and the HTML page, made from rows on disk."""
