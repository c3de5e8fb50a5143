"""The interface's description: the OpenAPI document, its examples, and the page that shows them."""
