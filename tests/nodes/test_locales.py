"""The nodes in eight languages: ComfyUI's locale files say what the nodes say, and all of it.

English is generated from the node classes by `python -m tools.texts`. The other languages are
translated by people, key by key.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import glide_pack
import pytest
from glide_pack.nodes import NODE_CLASS_MAPPINGS

from tools.texts import files

ROOT = Path(glide_pack.__file__).parent
LOCALES = ROOT / "locales"
TRANSLATED = ("zh", "ja", "ko", "fr", "de", "es", "ru")
FILES = ("main.json", "nodeDefs.json")

# Names that stay as they are: symbols of the field everywhere, and words two languages share.
SAME_NAME = {
    "zh": {"cfg", "eta"},
    "ja": {"cfg", "eta"},
    "ko": {"cfg", "eta"},
    "fr": {"cfg", "eta", "image", "latent", "variations"},
    "de": {"cfg", "eta"},
    "es": {"cfg", "eta"},
    "ru": {"cfg", "eta"},
}
# What may stand in Latin letters in a language that has other ones.
TERMS = """
GLIDE OpenAI ComfyUI KSampler CLIP VAE MODEL LATENT Latent CFG cfg eta CSV ViT MB
Classifier Free Guidance open_clip float32 token emoji x64 x256 upsampler inpaint
auto ancestral ddpm ddim plms dpmpp_2m ddim50 fast27 custom fast balanced reference
Text Encode fox SDEdit models glide openai base clip_image_enc clip_text_enc
"""
# English words that do not occur in the other languages with Latin letters.
ENGLISH = "the of and with from which what how this that picture pictures is are its by only"


def written(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read(language: str, name: str) -> Any:
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) of everything in a locale file, in its order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def pairs(language: str) -> list[tuple[str, str, str]]:
    """Return (key, English, translation) of every text that both have."""
    both = []
    for name in FILES:
        theirs = dict(texts(read(language, name)))
        both += [(k, text, theirs[k]) for k, text in texts(read("en", name)) if k in theirs]
    return both


def is_name(key: str) -> bool:
    return key.endswith("name") or key.startswith("nodeCategories")


def test_generated_texts_are_up_to_date() -> None:
    different = [str(path) for path, text in files().items() if path.read_text("utf-8") != text]
    assert not different, "run `python -m tools.texts`, then translate what changed"


def test_there_are_eight_languages_and_nothing_else() -> None:
    found = {path.relative_to(LOCALES).as_posix() for path in LOCALES.rglob("*") if path.is_file()}
    assert found == {f"{language}/{name}" for language in ("en", *TRANSLATED) for name in FILES}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", ("en", *TRANSLATED))
def test_files_are_utf8_in_one_format(language: str, name: str) -> None:
    """Two spaces, no escapes, a newline at the end: a diff shows words only."""
    content = (LOCALES / language / name).read_bytes().decode("utf-8")
    assert content == written(json.loads(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", TRANSLATED)
def test_every_language_has_every_key(language: str, name: str) -> None:
    english = [key for key, _ in texts(read("en", name))]
    theirs = [key for key, _ in texts(read(language, name))]
    missing = [key for key in english if key not in theirs]
    assert not missing, f"{language}/{name}: translate {missing}"
    assert theirs == english  # nothing more, and in the same order


@pytest.mark.parametrize("language", ("en", *TRANSLATED))
def test_texts_are_words_and_not_vue_i18n_syntax(language: str) -> None:
    """ComfyUI's interface reads these signs as placeholder, link and plural."""
    for key, _, text in pairs(language):
        assert text and text == text.strip(), key
        assert not set("{}@|$") & set(text), f"{language} {key}: {text}"


@pytest.mark.parametrize("language", TRANSLATED)
def test_nothing_is_left_in_english(language: str) -> None:
    for key, english, text in pairs(language):
        if text == english:
            assert is_name(key) and text in SAME_NAME[language], f"{language} {key}: {text}"
        if is_name(key):
            continue
        words = re.findall(r"[A-Za-z_]\w+", re.sub(r"`[^`]*`|'[^']*'", " ", text), re.ASCII)
        if language in ("fr", "de", "es"):
            left = set(ENGLISH.split()) & set(words)
        else:
            left = set(words) - set(TERMS.split()) - set(spoken_names(language).split())
        assert not left, f"{language} {key}: {left} in {text}"


def spoken_names(language: str) -> str:
    names = (node["display_name"] for node in read(language, "nodeDefs.json").values())
    return " ".join(names)


@pytest.mark.parametrize("language", TRANSLATED)
def test_numbers_values_and_file_names_stay_as_they_are(language: str) -> None:
    samplers = NODE_CLASS_MAPPINGS["GlideSampler"].INPUT_TYPES()["required"]["sampler_name"][0]
    code = re.compile(
        r"(?<!\w)'[^']+'(?!\w)"  # values in quotes
        r"|`glide [^`]+`"  # commands
        r"|\w+(?:[_/]\w+)+"  # files, folders, libraries
        rf"|\b(?:{'|'.join(samplers)})\b"
        r"|\d+(?:\.\d+)?",
        re.ASCII,
    )
    for key, english, text in pairs(language):
        if is_name(key):
            continue
        without_widgets = re.sub(r"`(?!glide )[^`]+`", "", english)
        for token in code.findall(without_widgets):
            assert token.strip("'") in text, f"{language} {key}: {token} is missing in {text}"


@pytest.mark.parametrize("language", TRANSLATED)
def test_texts_call_inputs_and_nodes_as_the_screen_does(language: str) -> None:
    """A tooltip that says `steps` says it as that language's label of the input."""
    english_nodes, nodes = read("en", "nodeDefs.json"), read(language, "nodeDefs.json")
    shown = {
        node["display_name"]: nodes[node_id]["display_name"]
        for node_id, node in english_nodes.items()
    }
    longest_first = sorted(shown, key=len, reverse=True)
    any_node = re.compile("|".join(re.escape(name) for name in longest_first))
    for key, english, text in pairs(language):
        if is_name(key):
            continue
        inputs = nodes[key.split(".")[0]]["inputs"]
        quoted = re.findall(r"`([^`]+)`", english)
        expected = [inputs[word]["name"] if word in inputs else word for word in quoted]
        assert sorted(re.findall(r"`([^`]+)`", text)) == sorted(expected), f"{language} {key}"
        for name in any_node.findall(english):
            assert shown[name] in text, f"{language} {key}: {shown[name]} is missing in {text}"


@pytest.mark.parametrize("language", ("en", *TRANSLATED))
def test_no_two_nodes_share_a_name_nor_two_inputs_of_a_node(language: str) -> None:
    nodes = read(language, "nodeDefs.json")
    assert len({node["display_name"] for node in nodes.values()}) == len(nodes)
    for node_id, node in nodes.items():
        names = [entry["name"] for entry in node["inputs"].values()]
        assert len(set(names)) == len(names), f"{language} {node_id}: {names}"


@pytest.mark.parametrize("language", TRANSLATED)
def test_equal_english_texts_have_equal_translations(language: str) -> None:
    said: dict[tuple[str, bool], str] = {}
    for key, english, text in pairs(language):
        assert said.setdefault((english, is_name(key)), text) == text, f"{language} {key}"


def test_they_are_in_the_wheel_and_in_the_registry_s_archive() -> None:
    pyproject = ROOT / "pyproject.toml"
    if not pyproject.exists():
        pytest.skip("pip does not install pyproject.toml: only a checkout has it")
    listed = re.search(r"^glide_pack = (\[.*\])$", pyproject.read_text(), re.MULTILINE)
    assert listed is not None and "locales/*/*" in json.loads(listed[1])
    for ignored in (".comfyignore", ".gitignore"):
        for line in (ROOT / ignored).read_text().split():
            for path in LOCALES.rglob("*.json"):
                parts = path.relative_to(ROOT).parts
                assert not any(fnmatch.fnmatch(part, line.strip("/")) for part in parts), line
