"""CNI errors as documents."""

import json

import pytest

from cni import errors

SPECIFIED = {1, 2, 3, 4, 5, 6, 7, 11, 50, 51}


def test_every_code_of_the_specification_has_a_name():
    assert set(errors.Code) >= SPECIFIED


def test_document_carries_version_code_and_texts_as_plain_json():
    error = errors.CNIError(errors.Code.INVALID_NETNS, "no namespace", "/run/netns/x")
    assert json.loads(json.dumps(error.document("0.4.0"))) == {
        "cniVersion": "0.4.0",
        "code": 8,
        "msg": "no namespace",
        "details": "/run/netns/x",
    }


def test_document_leaves_empty_details_out():
    assert "details" not in errors.CNIError(7, "wrong").document("1.1.0")


@pytest.mark.parametrize(("details", "text"), [("", "wrong"), ("mtu", "wrong: mtu")])
def test_text_says_message_and_details(details, text):
    assert str(errors.CNIError(7, "wrong", details)) == text


@pytest.mark.parametrize(("code", "kind"), [(11, errors.Code), (123, int)])
def test_code_is_named_where_it_has_a_name(code, kind):
    assert type(errors.CNIError(code, "x").code) is kind


def test_another_plugins_error_survives_the_way_there_and_back():
    document = {"cniVersion": "1.0.0", "code": 123, "msg": "port taken", "details": "vlan 5"}
    assert errors.CNIError.from_document(document).document("1.0.0") == document


@pytest.mark.parametrize(
    "document",
    [{}, {"code": 0, "msg": "x"}, {"code": "7"}, {"code": True, "msg": None}, {"code": -1}, {"msg": 3, "details": []}],
)
def test_damaged_error_of_another_plugin_is_still_an_error(document):
    error = errors.CNIError.from_document(document)
    assert int(error.code) > 0
    assert error.message
    json.dumps(error.document("1.1.0"))
