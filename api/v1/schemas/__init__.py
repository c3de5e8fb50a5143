"""The shapes of requests and answers under `/v1`.

The name of a class here is the name of its component in the OpenAPI document, which clients generate code from: it must
not change. So some classes share a name with a class of `shared/`, which holds the value that such a document shows.
"""
