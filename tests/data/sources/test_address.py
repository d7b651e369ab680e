"""Addresses: places, options, and every way to write them wrongly."""

import pytest

from siglip.config import UserError
from siglip.data.sources.address import Options, parse


@pytest.mark.parametrize(
    "address,places",
    [
        ("a.tar", [("a.tar", Options())]),
        ("photos/ + web-{000..099}.tar?weight=3", [
            ("photos/", Options()), ("web-{000..099}.tar", Options(weight=3)),
        ]),
        ("a-?.tar", [("a-?.tar", Options())]),
        ("a-?.tar?caption=txt,alt%2Cb", [("a-?.tar", Options(caption=("txt", "alt,b")))]),
        ("x.csv?sep=tab&image=a+b&root=/r%26d", [
            ("x.csv", Options(sep="\t", image="a+b", root="/r&d")),
        ]),
        ("x.csv?sep=;&key=id", [("x.csv", Options(sep=";", key="id"))]),
        ("d?label=folder&template=a photo of a {}.|what is a {}?", [
            ("d", Options(label="folder", template=("a photo of a {}.", "what is a {}?"))),
        ]),
        ("tfds:coco/2017:1.1.0?split=train[:90%25]", [
            ("tfds:coco/2017:1.1.0", Options(split="train[:90%]")),
        ]),
    ],
)  # fmt: skip
def test_places_and_options(address, places):
    assert parse(address) == places


def test_what_exists_is_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (name := tmp_path / "a + b?key=c.tar").touch()
    assert parse(str(name)) == [(str(name), Options())]
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("~/a.tar::~/b.tar")[0][0] == "/home/me/a.tar::/home/me/b.tar"
    assert parse("a.csv?root=~/x")[0][1].root == "/home/me/x"
    assert parse("a.csv?key=~/x")[0][1].key == "~/x"


@pytest.mark.parametrize(
    "address,message",
    [
        ("", r"set config\.data\.train"),
        ("a.tar + ", "no place"),
        ("?key=a", "no place before the options"),
        ("a.tar::", "no place beside `::`; give a path"),
        ("a.csv?captoin=x", r"a\.csv\?captoin=x: unknown option 'captoin'; did you mean 'caption'"),
        ("a.csv?zzzzzz=x", "choose from image, caption, label"),
        ("a.csv?key=a&key=b", "given twice"),
        ("a.csv?key=", "write key=VALUE"),
        ("a.csv?key=a&image", "write image=VALUE"),
        ("a.csv?sep=tabs", "not one character; .* tab, comma"),
        ("a.tar?weight=0", "above 0"),
        ("a.tar?weight=-1", "above 0"),
        ("a.tar?weight=nan", "above 0"),
        ("a.tar?weight=much", "above 0"),
        ("a.tar?template=a {}", "add label=FIELD"),
        ("a.tar?label=a&template=a photo", r"has no \{\}"),
        ("a.tar?label=a&caption=b", "remove one"),
    ],
)
def test_mistakes(address, message):
    with pytest.raises(UserError, match=message) as error:
        parse(address)
    assert "\n" not in str(error.value)


def test_options_that_a_format_does_not_take():
    options = Options(split="train", weight=2.0)
    options.refuse_others("d", ("split",))
    with pytest.raises(UserError, match=r"d\?split=: no option .* key, label, template, weight"):
        options.refuse_others("d", ("key",))
