"""Every error a request can meet has its row in the table of codes, and every failure a label of its own."""

import inspect

import pytest

from sluice import errors
from sluice.frontends import status

TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.SluiceError)]
BRANCHES = {errors.SluiceError, errors.RequestError, errors.ServerError, errors.SetupError}
LEAVES = [cls for cls in TREE if cls not in BRANCHES]


def test_every_leaf_has_codes() -> None:
    assert all(any(cls in status.TABLE for cls in leaf.__mro__) for leaf in LEAVES)


@pytest.mark.parametrize("cls", LEAVES)
def test_the_sender_is_blamed_only_for_what_it_did(cls: type[errors.SluiceError]) -> None:
    http = status.of(cls("x")).http
    if issubclass(cls, errors.ServerError):
        assert http in (429, 500, 503)
    elif cls not in (errors.Unsupported, errors.DeadlineExceeded):  # well formed, but not to be had
        assert 400 <= http < 500


def test_a_new_error_gets_the_codes_of_its_nearest_relative() -> None:
    class Odd(errors.InvalidRequest):
        pass

    assert status.of(Odd("x")) == status.TABLE[errors.InvalidRequest]
    assert status.of(errors.ServerError("x")) == status.TABLE[errors.InternalError]


def test_labels_tell_errors_apart() -> None:
    labels = [cls.reason for cls in LEAVES]
    assert len(set(labels)) == len(labels)


def test_the_tree_drawn_in_the_docstring_is_complete() -> None:
    assert errors.__doc__ is not None
    for cls in TREE:
        assert cls.__name__ in errors.__doc__
