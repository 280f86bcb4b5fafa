"""Routes of the HTTP contract: their bodies, answers and errors, and the document of them."""
