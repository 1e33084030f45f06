"""`vocabridge bridge` and `generate`: a bridge is written and used in every way, and a changed one is refused."""

import json
import shutil
import signal
import subprocess

import pytest

TEMPLATE = "{% for m in messages %}<|begin|>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture
def make(run, own, model_pair):
    """Return a function that makes a bridge of an expert pair with some options, by default in the folder `bridge`."""

    def make(*options, output="bridge"):
        models = ("--base", "target", "--value", "tuned", "--untuned", "source", "--alignment", model_pair)
        done = run("bridge", "-o", output, *models, *options)
        assert done.returncode == 0, done.stderr
        return done

    return make


def answer(run, *arguments, **environment):
    done = run("generate", *arguments, "--max-new-tokens", 8, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def error_of(done):
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("loading ", "scoring "))]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "defect" not in lines[0]
    return lines[0]


def test_the_strength_sets_how_much_is_changed(run, make):
    make("--strength", 0, output="off")
    make("--strength", 2, output="strong")
    off, strong = run("generate", "off", "The fox", "--max-new-tokens", 8), answer(run, "strong", "The fox")
    assert off.stderr.endswith("tokens/s, nothing steers\n")
    assert strong["changed_rate"] > 0
    assert off.stdout != strong["text"] + "\n"


def test_all_settings_are_in_the_folder(run, make, own):
    done = make("--strength", "1:0.2:64", "--policy", "heal", "--plausibility-threshold", 0.01)
    assert "informed product, weights 0.45, 0.75, 0.1, strength 1:0.2:64" in done.stdout
    written = json.loads((own / "bridge" / "bridge.json").read_text())
    assert written["limits"] == {"plausibility_threshold": 0.01}
    (steering,) = written["steerings"]
    assert (steering["policy"], steering["strength"]) == ("heal", {"start": 1.0, "end": 0.2, "tokens": 64})
    assert set(steering["source"]) == {"tuned", "untuned"}
    assert steering["source"]["tuned"]["name"] == "../tuned"
    answer(run, "bridge", "The fox")


def test_a_note_tells_how_to_fit_weights_that_are_not_fitted(run, make, own):
    (own / "report.json").write_text(
        '{"combination": {"method": "informed", "form": "product", "base_weight": 0.4, '
        '"tuned_weight": 0.7, "untuned_weight": 0}}'
    )
    for name, options, fitted in (("plain", (), False), ("fitted", ("--combination", "report.json"), True)):
        made = make(*options, output=name)
        (steering,) = json.loads((own / name / "bridge.json").read_text())["steerings"]
        assert steering["combination"]["fitted"] is fitted
        for more in ((), ("--json",), ("--byte-level",)):
            done = run("generate", name, "The fox", "--max-new-tokens", 2, *more)
            for command in (made, done):
                notes = [line for line in command.stderr.splitlines() if line.startswith("note: ")]
                assert len(notes) == (not fitted), command.stderr
                assert all("no weights were fitted; to fit them: vocabridge eval" in note for note in notes)


def test_without_an_alignment_it_is_built_once_and_kept(run, own):
    models = ("--base", "target", "--value", "tuned", "--untuned", "source")
    done = run("bridge", "-o", "bridge", *models, "--json")
    assert done.returncode == 0, done.stderr
    entries = json.loads(run("cache", "list", "--json").stdout)["entries"]
    assert [entry["alignment"]["method"] for entry in entries] == ["default"]
    answer(run, "bridge", "The fox")


def test_the_nth_option_belongs_to_the_nth_source(run, own, model_pair):
    (own / "data.jsonl").write_text('{"prompt": "Question: 3?", "response": " 6"}\n')
    trained = run("train", "data.jsonl", "-o", "values", "--source", "source", "--method", "lora", "--rank", 1)
    assert trained.returncode == 0, trained.stderr
    first = ("--value", "tuned", "--untuned", "source", "--strength", 0.7, "--alignment", model_pair)
    second = ("--value", "values", "--untuned", "-", "--strength", "-", "--alignment", "-")
    done = run("bridge", "-o", "bridge", "--base", "target", *first, *second, "--json")
    assert done.returncode == 0, done.stderr
    steerings = [(steering["source"], steering["strength"]) for steering in json.loads(done.stdout)["steerings"]]
    assert steerings == [("tuned - source", 0.7), ("values", 1.0)]
    shutil.rmtree(own / "values")
    answer(run, "bridge", "The fox")


def test_every_character_of_a_prompt_on_stdin_is_read(entry_point, run, make, own):
    make()
    texts = []
    for arguments in (["bridge"], ["bridge", "-"], ["bridge", "The fox\n"]):
        done = run("generate", *arguments, "--max-new-tokens", 8, "--json", stdin=b"The fox\n")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["prompt"] == "The fox\n"
        texts.append(json.loads(done.stdout)["text"])
    assert len(set(texts)) == 1
    done = subprocess.run(
        [entry_point, "generate", "bridge"], cwd=own, input=b"a\xff", capture_output=True, timeout=100
    )
    assert done.returncode == 1
    assert done.stderr.endswith(b"error: the prompt is not UTF-8 text at byte 1; convert it\n")


def test_generate_stops_draws_and_searches(run, make, own):
    (own / "sum.json").write_text(
        '{"method": "informed", "form": "product", "base_weight": 1, "tuned_weight": 1, "untuned_weight": 1}'
    )
    make("--combination", "sum.json")
    greedy = answer(run, "bridge", "The fox")
    middle = greedy["text"][len(greedy["text"]) // 2 :][:2]
    stopped = answer(run, "bridge", "The fox", "--stop", "never", "--stop", middle)["text"]
    assert stopped == greedy["text"][: greedy["text"].index(middle)]
    drawn = [answer(run, "bridge", "The fox", "--temperature", 2, "--seed", seed)["text"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    narrow = answer(run, "bridge", "The fox", "--temperature", 1, "--top-p", 1e-6)
    assert narrow["text"] == greedy["text"]
    assert answer(run, "bridge", "The fox", "--beams", 3)["tokens"] > 0


def test_each_model_reads_a_chat_in_its_own_template(run, make, own):
    make()
    assert "chat template" in error_of(run("generate", "bridge", "The fox", "--chat"))
    for name in ("target", "tuned", "source"):
        (own / name / "chat_template.jinja").write_text(TEMPLATE)
    done = run("align", "source", "target", "--method", "retokenize", "-o", "chat.safetensors")
    assert done.returncode == 0, done.stderr
    models = ("--base", "target", "--value", "tuned", "--untuned", "source", "--alignment", "chat.safetensors")
    assert run("bridge", "-o", "chatty", *models).returncode == 0
    chat, plain = answer(run, "chatty", "The fox", "--chat"), answer(run, "chatty", "The fox")
    assert chat["prompt"] == plain["prompt"] == "The fox"
    assert chat["text"] != plain["text"]


def test_dtype_and_device_can_be_named(run, make):
    make()
    places = ("--device", "cpu", "--value-device", "cpu", "--dtype", "float32")
    assert answer(run, "bridge", "The fox", *places)["tokens"] > 0
    assert "there is no device 'nowhere' here" in error_of(run("generate", "bridge", "The", "--device", "nowhere"))
    assert "there is no device 'nowhere' here" in error_of(
        run("generate", "bridge", "The", "--value-device", "nowhere")
    )


def test_a_setting_out_of_range_is_named(run, make):
    make()
    done = run("generate", "bridge", "The fox", "--top-p", 0)
    assert done.returncode == 2
    assert "Invalid value for '--top-p': 0.0" in done.stderr


def test_a_changed_or_missing_part_of_a_bridge_is_named(run, make, own):
    make()
    config = own / "tuned" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": "a"}))
    assert f"{own / 'tuned'} has another tokenizer now" in error_of(run("generate", "bridge", "The"))
    (own / "target" / "model.safetensors").write_bytes(b"cut off")
    assert f"{own / 'target'} has other weights now" in error_of(run("generate", "bridge", "The"))
    (own / "bridge" / "bridge.json").write_text("{")
    assert "bridge.json cannot be read" in error_of(run("generate", "bridge", "The"))
    assert "target is no bridge" in error_of(run("generate", "target", "The"))


def test_an_existing_folder_is_not_overwritten(run, own, model_pair):
    models = ("--base", "target", "--value", "tuned", "--untuned", "source", "--alignment", model_pair)
    assert "target is not empty and is no bridge" in error_of(run("bridge", "-o", "target", *models))


def test_an_interrupt_keeps_the_text_that_is_printed(command_server, make, own):
    (own / "sum.json").write_text(
        '{"method": "informed", "form": "product", "base_weight": 1, "tuned_weight": 1, "untuned_weight": 1}'
    )
    make("--combination", "sum.json")
    process = subprocess.Popen(
        [
            command_server.command,
            "generate",
            "bridge",
            "The fox",
            "--max-new-tokens",
            "5000",
        ],
        cwd=own,
        env=command_server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    begun = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (begun + out).endswith(b"\n")
    assert err.decode().splitlines() == ["loading bridge", "error: interrupted; the text is incomplete"]


def test_a_byte_level_bridge_generates_and_reports_the_lost_probability(run, make):
    make()
    result = answer(run, "bridge", "The qui", "--byte-level", "--tolerance", 0.01)
    assert result["bytes"] > 0
    assert 0 <= result["lost"] < 0.05
    wrong = run("generate", "bridge", "The", "--tolerance", 0.01)
    assert wrong.returncode == 2
    assert "only --byte-level has a tolerance" in wrong.stderr
    wrong = run("generate", "bridge", "The", "--byte-level", "--tolerance", 1)
    assert wrong.returncode == 2
    assert "give a number from 0 to below 1" in " ".join(wrong.stderr.split())


def test_small_files_are_checked_before_a_model_is_loaded(run, own, model_pair):
    """Use a base without weights, which only loading it notices."""
    (own / "target" / "model.safetensors").unlink()
    (own / "taken").mkdir()
    (own / "taken" / "mine.txt").write_text("mine")
    (own / "broken.json").write_text("{")
    base = ("--base", "target", "--alignment", model_pair)
    pair = (*base, "--value", "tuned", "--untuned", "source")
    for arguments, message in (
        (("-o", "bridge", *base, "--value", "nowhere"), "value_network.json"),
        (("-o", "bridge", *pair[:-1], "./nowhere"), "nowhere: no"),
        (("-o", "bridge", *pair, "--combination", "broken.json"), "broken.json"),
        (("-o", "taken", *pair), "taken is not empty and is no bridge"),
    ):
        assert message in error_of(run("bridge", *arguments))
    assert "alignment was made for the target tokenizer" in error_of(
        run("score", model_pair, "--model", "target", "--target", "source", "--text", "broken.json")
    )
