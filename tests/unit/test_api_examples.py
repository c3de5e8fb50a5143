"""The examples in the OpenAPI document are documents of this API."""

from __future__ import annotations

import json

import pytest

from api.docs.examples import EXAMPLES
from api.v1.schemas.base import Document


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_example_is_what_its_model_promises(model: type[Document]) -> None:
    example = EXAMPLES[model]
    told = json.loads(model.model_validate(example).model_dump_json(exclude_unset=True))
    assert told.keys() == example.keys()
