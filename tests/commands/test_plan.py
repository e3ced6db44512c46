import json
import struct

import pytest
from suffice.server.cli import app
from suffice.server.engine.model_folder import ModelFolderError, read_config, weight_bytes
from suffice.server.quantities import parse_bytes, parse_count, parse_tokens, show_bytes
from typer.testing import CliRunner

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
GIB = 1 << 30


def safetensors(path, sizes, *, metadata=True):
    header, start = {}, 0
    for index, size in enumerate(sizes):
        header[f"t{index}"] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [start, start + size]}
        start += size
    if metadata:
        header["__metadata__"] = {"format": "pt"}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def plan(*arguments):
    return CliRunner().invoke(app, ["plan", "kv", *map(str, arguments)])


def test_a_plan_as_json(folder):
    done = plan("--model", folder, "--memory", "80GiB", "--weights", "15GiB", "--context", "32k", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert told["fits"]
    assert told["block_bytes"] == 2 << 20
    assert told["token_bytes"] == 128 << 10
    assert told["weights_bytes"] == 15 * GIB
    room = -(-80 * GIB * 92 // 100) - 15 * GIB - told["overhead_bytes"]
    assert abs(told["kv_pool_bytes"] - room) <= 1
    assert told["kv_blocks"] == told["kv_pool_bytes"] >> 21
    assert told["concurrency_at_context"] == (told["kv_blocks"] - 1) // 2048
    assert "--max-model-len 32768" in told["flags"]


def test_what_does_not_fit_is_told_with_what_would_help(folder):
    options = ("--memory", "80GiB", "--weights", "15GiB", "--context", "32k", "--concurrency", 64)
    done = plan("--model", folder, *options, "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (told["fits"], told["binding"]) == (False, "kv")
    by_change = {change["change"]: change for change in told["relaxed"]}
    assert by_change["--kv-cache-dtype fp8"]["concurrency_at_context"] >= 2 * told["concurrency_at_context"]
    assert by_change[f"--max-model-len {told['context_at_concurrency']}"]["concurrency_at_context"] == 64
    followed = plan(
        "--model", folder, *options[:4], "--concurrency", 64, "--context", told["context_at_concurrency"], "--json"
    )
    assert json.loads(followed.stdout)["fits"]


def test_a_plan_on_a_terminal_names_limit_and_flags(folder):
    done = plan("--model", folder, "--memory", "24G", "--parameters", "8B", "--kv-dtype", "fp8", "--tensor-parallel", 2)
    assert done.exit_code == 0
    assert "--tensor-parallel-size 2" in done.stdout
    assert "--kv-cache-dtype fp8" in done.stdout
    assert "all tokens in 32 layers" in done.stdout


@pytest.mark.parametrize(
    ("options", "binding"),
    [
        pytest.param(("--memory", "8GiB", "--weights", "15GiB"), "weights", id="weights too large"),
        pytest.param(("--memory", "800GiB", "--weights", "15GiB", "--context", "256k"), "context", id="too long"),
    ],
)
def test_each_limit_is_told_apart(folder, options, binding):
    done = plan("--model", folder, *options, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["binding"] == binding


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(("--memory", "80quux", "--weights", "1G"), "--memory: '80quux' is not a size", id="memory"),
        pytest.param(("--memory", "1G", "--weights", "x"), "--weights", id="weights"),
        pytest.param(("--memory", "1G", "--parameters", "x"), "--parameters", id="parameters"),
        pytest.param(("--memory", "1G", "--weights", "1G", "--context", "0"), "too small", id="context"),
        pytest.param(("--memory", "1G", "--weights", "1G", "--overhead", "-1"), "--overhead", id="overhead"),
        pytest.param(("--memory", "1G", "--weights", "1G", "--kv-dtype", "fp9"), "'fp9'", id="dtype"),
        pytest.param(("--memory", "1G"), "give --weights", id="no weights"),
    ],
)
def test_a_question_that_makes_no_sense_exits_with_2(folder, options, said):
    done = plan("--model", folder, *options)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_folder_without_a_configuration_is_told(tmp_path):
    done = plan("--model", tmp_path, "--memory", "1G", "--weights", "1G")
    assert done.exit_code == 2
    assert "config.json" in done.stderr


def test_weights_are_measured_from_headers(folder):
    safetensors(folder / "model-1.safetensors", [100, 60])
    safetensors(folder / "model-2.safetensors", [40], metadata=False)
    assert weight_bytes(folder) == 200
    told = json.loads(plan("--model", folder, "--memory", "24GiB", "--tensor-parallel", 2, "--json").stdout)
    assert told["weights_bytes"] == 100


def test_the_index_tells_which_files_count_and_stands_in_for_absent_ones(folder):
    index = {"metadata": {"total_size": 999}, "weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_bytes(folder) == 999
    safetensors(folder / "model-1.safetensors", [10])
    safetensors(folder / "other.safetensors", [500])
    assert weight_bytes(folder) == 10


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, struct.pack("<Q", 5) + b"[1,2]", struct.pack("<Q", 2) + b"{"])
def test_a_broken_weights_file_is_told(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFolderError):
        weight_bytes(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index_is_told(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelFolderError):
        weight_bytes(folder)


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_broken_configuration_is_told(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelFolderError):
        read_config(tmp_path)


def test_a_configuration_alone_has_no_weights(folder):
    assert weight_bytes(folder) is None
    assert weight_bytes(folder / "config.json") is None
    assert read_config(folder / "config.json") == LLAMA


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_bytes, "80GiB", 80 * GIB),
        (parse_bytes, "80 G", 80 * GIB),
        (parse_bytes, "80GB", 80 * 10**9),
        (parse_bytes, "1.5mib", 1572864),
        (parse_bytes, "1_000", 1000),
        (parse_tokens, "32k", 32768),
        (parse_tokens, "8192", 8192),
        (parse_count, "8.03B", 8_030_000_000),
        (parse_count, "135M", 135_000_000),
    ],
)
def test_quantities(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize("text", ["", "k", "-3", "3..2", "1e9", "3 apples", "0", "0.0001"])
@pytest.mark.parametrize("parse", [parse_bytes, parse_tokens, parse_count])
def test_quantities_that_are_none(parse, text):
    with pytest.raises(ValueError, match="is"):
        parse(text)


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (2048, "2 KiB"), (1.5 * GIB, "1.5 GiB"), (3 * 2**40, "3 TiB")]
)
def test_sizes_are_shown_in_binary_units(count, text):
    assert show_bytes(count) == text
