"""Events sent to the browser while a model samples, and the images it gets to compare."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui.every_node import graph
from PIL import Image
from torch.nn.functional import normalize

from glide_core.checkpoints.loading import load_clip
from glide_core.diffusion.schedule import Schedule
from tools.comfyui.checkpoints import Checkpoints
from tools.comfyui.serving import Run

STEPS = 4
CORE = ("euler", "heun", "dpm_2", "dpmpp_2m_sde", "uni_pc", "lcm", "dpm_adaptive")


def guided(sampler: str, **changes: Any) -> dict[str, Any]:
    """Two guides, one after the other, under GLIDE Sampler or a built-in sampler."""
    whole = graph()
    names = ("base", "clip", "positive", "negative", "guided", "empty", "sampled", "save_sampled")
    prompt = {name: whole[name] for name in names}
    prompt["again"] = {
        "class_type": "GlideClipGuidance",
        "inputs": {**prompt["guided"]["inputs"], "model": ["guided", 0], "text": "blue"},
    }
    inputs = prompt["sampled"]["inputs"]
    inputs |= {"model": ["again", 0], "steps": STEPS, **changes}
    if sampler != "GlideSampler":
        inputs |= {"sampler_name": sampler, "scheduler": "normal", "denoise": 1.0}
        prompt["sampled"]["class_type"] = "KSampler"
        prompt["decoded"] = whole["decoded"]
        prompt["decoded"]["inputs"]["samples"] = ["sampled", 0]
        prompt["save_sampled"]["inputs"]["images"] = ["decoded", 0]
    return prompt


def steps(run: Run, node: str) -> list[dict[str, Any]]:
    assert run.end == "execution_success", run.events[-1]
    return [data for data in run.of("glide.step") if data["node"] == node]


def test_every_step_of_glide_sampler_is_sent_once_to_each_node(server: Any) -> None:
    run = server.run(guided("GlideSampler", seed=1))
    for node in ("sampled", "guided", "again"):
        received = steps(run, node)
        assert [data["step"] for data in received] == list(range(STEPS)), node
        assert {data["total"] for data in received} == {STEPS}
        assert all(-1 <= data["similarity"] <= 1 for data in received)
        assert all(0 < data["clip_strength"] <= 2 for data in received)
        sigmas = [data["sigma"] for data in received]
        assert sigmas == sorted(sigmas, reverse=True)
    assert all(0 < data["cfg_strength"] <= 2 for data in steps(run, "sampled"))
    assert all(data["cfg_strength"] is None for data in steps(run, "guided"))
    both = zip(steps(run, "guided"), steps(run, "again"), steps(run, "sampled"), strict=True)
    for first, second, sampler in both:
        mean = (first["similarity"] + second["similarity"]) / 2
        assert sampler["similarity"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("sampler", CORE)
def test_every_step_of_a_builtin_sampler_is_sent_to_the_guidance_nodes(
    server: Any, sampler: str
) -> None:
    """Samplers that call the model twice per step send the step again, in order."""
    run = server.run(guided(sampler, seed=2))
    for node in ("guided", "again"):
        found = [data["step"] for data in steps(run, node)]
        assert sorted(set(found)) == list(range(STEPS))
        if sampler in ("euler", "dpmpp_2m_sde", "lcm"):
            assert found == list(range(STEPS))
        if sampler != "dpm_adaptive":  # takes steps back
            assert found == sorted(found)
    assert not steps(run, "sampled")  # KSampler is not ours


def test_a_cached_guidance_node_still_gets_events(server: Any) -> None:
    first = server.run(guided("euler", seed=3))
    second = server.run(guided("euler", seed=4))
    assert "again" not in {data["node"] for data in second.of("executing")}
    runs = [{data["run"] for data in steps(run, "again")} for run in (first, second)]
    assert len(runs[0]) == len(runs[1]) == 1 and runs[0] != runs[1]
    assert len(steps(second, "again")) == STEPS


def test_two_equal_guidance_nodes_get_separate_events(server: Any) -> None:
    prompt = guided("euler", seed=5)
    twin = {**prompt["again"], "inputs": dict(prompt["again"]["inputs"])}
    prompt |= {
        "twin": twin,
        "sampled_2": {**prompt["sampled"]},
        "save_2": {**prompt["save_sampled"]},
    }
    prompt["sampled_2"]["inputs"] = {**prompt["sampled"]["inputs"], "model": ["twin", 0]}
    prompt["decoded_2"] = {**prompt["decoded"]}
    prompt["decoded_2"]["inputs"] = {**prompt["decoded"]["inputs"], "samples": ["sampled_2", 0]}
    prompt["save_2"]["inputs"] = {"images": ["decoded_2", 0], "filename_prefix": "twin"}
    run = server.run(prompt)
    assert len(steps(run, "again")) == len(steps(run, "twin")) == STEPS


def test_outside_its_interval_a_guide_reports_zero_strength(server: Any) -> None:
    prompt = guided("GlideSampler", seed=6)
    prompt["again"]["inputs"] |= {"sigma_min": 0.0, "sigma_max": 1.0}
    received = steps(server.run(prompt), "again")
    assert [data["step"] for data in received] == list(range(STEPS))
    for data in received:
        assert (data["similarity"] is None) == (data["sigma"] > 1)
        assert (data["clip_strength"] == 0) == (data["sigma"] > 1)


def test_an_unguided_run_sends_nothing(server: Any) -> None:
    run = server.run(guided("GlideSampler", seed=7, model=["base", 0], cfg=1.0))
    assert run.end == "execution_success" and not run.of("glide.step")


def test_without_a_server_nothing_is_computed_or_sent(comfy: Any) -> None:
    """Without a server in this process guidance nodes have no id, and nothing is sent."""
    step_events = comfy.module("nodes.host.comfyui.step_events")
    assert step_events.connected_server() is None and step_events.executing_node() is None


class FakeServer:
    client_id = "a browser"

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []

    def send_sync(self, event: str, data: dict[str, Any], client: str) -> None:
        assert event == "glide.step" and client == self.client_id
        self.received.append(data)


@pytest.fixture
def sent(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Have nodes run as part of a prompt, with a browser at the other end."""
    from comfy_execution.utils import CurrentNodeContext

    step_events, server = comfy.module("nodes.host.comfyui.step_events"), FakeServer()
    monkeypatch.setattr(step_events, "connected_server", lambda: server)
    with CurrentNodeContext("prompt", "57:8"):
        yield server.received


def test_the_similarity_is_clip_s_cosine_at_the_noised_image(
    comfy: Any, checkpoints: Checkpoints, sent: list[dict[str, Any]]
) -> None:
    model, clip, _ = comfy.load()
    noisy = comfy.load_clip()
    text = "a red fox"
    patched = comfy("GlideClipGuidance", model=model, clip=noisy, text=text, scale=5.0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def look(args: dict[str, Any]) -> torch.Tensor:
        seen.append((args["input"].clone(), args["sigma"].clone()))
        return args["denoised"]

    patched.set_model_sampler_post_cfg_function(look)
    positive, negative = comfy.prompt(clip, text), comfy.prompt(clip, "")
    comfy.ksampler(patched, positive, negative, steps=STEPS)
    assert [data["node"] for data in sent] == ["57:8"] * STEPS
    direct = load_clip([checkpoints.path("clip.safetensors")])
    target = normalize(direct.encode_prompts([text]).float())
    schedule = Schedule.named("squaredcos_cap_v2")
    table = schedule.sigma(torch.arange(1000))
    for (x, sigma), data in zip(seen, sent, strict=True):
        t = (table - sigma.cpu()).abs().argmin().reshape(1)
        image = normalize(direct.encode_image(x / (1 + sigma**2).sqrt(), t).float())
        assert data["similarity"] == pytest.approx(float((image * target).sum()), abs=1e-5)
        assert data["sigma"] == pytest.approx(float(sigma), rel=1e-5)


def test_events_change_no_bit_of_an_image(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_execution.utils import CurrentNodeContext

    model, clip, _ = comfy.load()
    noisy = comfy.load_clip()
    positive, negative = comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")

    def images() -> list[torch.Tensor]:
        patched = comfy("GlideClipGuidance", model=model, clip=noisy, text="blue", scale=5.0)
        exact = comfy(
            "GlideSampler",
            model=patched, positive=positive, negative=negative, latent_image=comfy.empty(2),
            seed=1, steps=3, sampler_name="ddpm", cfg=3.0,
        )[0]  # fmt: skip
        return [comfy.ksampler(patched, positive, negative), exact]

    without_events = images()
    server = FakeServer()
    monkeypatch.setattr(
        comfy.module("nodes.host.comfyui.step_events"), "connected_server", lambda: server
    )
    with CurrentNodeContext("prompt", "1"):
        received = images()
    assert server.received
    assert all(torch.equal(a, b) for a, b in zip(without_events, received, strict=True))


def test_nan_is_sent_as_null(comfy: Any) -> None:
    """The browser's JSON knows neither NaN nor infinity."""
    numbers = comfy.module("nodes.host.comfyui.step_events").numbers
    values = [torch.tensor(math.nan), None, torch.tensor(math.inf), torch.tensor(0.5)]
    assert numbers(values) == [None, None, None, 0.5]


# before and after


@pytest.mark.usefixtures("photo")
def test_the_nodes_that_change_images_give_both(server: Any) -> None:
    base = server.checkpoints.base_directory
    run = server.run(graph())
    assert run.end == "execution_success", run.events[-1]
    pairs = {
        data["node"]: data["output"]["glide_compare"]
        for data in run.of("executed")
        if data["output"] and "glide_compare" in data["output"]
    }
    assert sorted(pairs) == ["edited", "inpainted", "upsampled"]

    def size(item: dict[str, str]) -> tuple[int, int]:
        assert item["type"] == "temp"
        return Image.open(Path(base / "temp" / item["subfolder"] / item["filename"])).size

    sizes = {name: (size(p[0]["before"]), size(p[0]["after"])) for name, p in pairs.items()}
    assert sizes["upsampled"] == ((32, 32), (128, 128))
    assert sizes["inpainted"] == ((96, 80), (96, 80))
    assert sizes["edited"][0] == (96, 80)
    for node in pairs:  # the output itself is what it was
        assert f"save_{node}" in run.outputs


def test_a_big_batch_shows_four_pairs_and_one_before_serves_all(comfy: Any, tmp_path: Path) -> None:
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    try:
        host = comfy.module("nodes.host").current()
        small, large = torch.rand(1, 8, 8, 3), torch.rand(6, 16, 24, 3)
        found = host.compared(small, large, (large,))
    finally:
        folder_paths.set_temp_directory(before)
    assert found["result"][0] is large
    pairs = found["ui"]["glide_compare"]
    assert len(pairs) == 4
    assert len({pair["before"]["filename"] for pair in pairs}) == 1
    assert len({pair["after"]["filename"] for pair in pairs}) == 4
    assert Image.open(tmp_path / pairs[3]["after"]["filename"]).size == (24, 16)
