"""The U-Net and the diffusion agree with the published code, whose outputs are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.reference import Measure, Reference
from worker.model.cards.schema import DiffusionConfig, UnetConfig
from worker.model.diffusion import SpacedDiffusion, dire, linear_alpha_bars
from worker.model.networks.unet import AdmUnet

TOLERANCE = 1e-4
FULL = UnetConfig(
    num_channels=256,
    num_res_blocks=2,
    channel_mult=(1, 1, 2, 2, 4, 4),
    attention_resolutions=(32, 16, 8),
    num_head_channels=64,
)


@torch.inference_mode()
def test_the_tiny_unet_agrees(tiny_unet: AdmUnet, reference: Reference, relative_error: Measure):
    golden = reference.golden("adm_tiny64")
    out = tiny_unet(torch.from_numpy(golden["x"]), torch.zeros(2, dtype=torch.long))
    assert relative_error(out, golden["unet_out_t0"]) < TOLERANCE


@pytest.mark.parametrize(("clip", "name"), [(True, "eps_clipped"), (False, "eps_unclipped")])
@torch.inference_mode()
def test_the_first_step_noise_agrees(
    tiny_unet: AdmUnet, reference: Reference, relative_error: Measure, clip: bool, name: str
):
    golden = reference.golden("adm_tiny64")
    diffusion = SpacedDiffusion(DiffusionConfig(clip_denoised=clip))
    eps = diffusion.first_step_eps(tiny_unet, torch.from_numpy(golden["x"]))
    assert eps.dtype == torch.float32
    assert relative_error(eps, golden[name]) < TOLERANCE


@torch.inference_mode()
def test_the_round_trip_of_dire_agrees(tiny_unet: AdmUnet, reference: Reference, relative_error: Measure):
    golden = reference.golden("adm_tiny64")
    diffusion, x = SpacedDiffusion(DiffusionConfig()), torch.from_numpy(golden["x"])
    latent = diffusion.invert(tiny_unet, x)
    assert relative_error(latent, golden["ddim_latent"]) < TOLERANCE
    reconstruction = diffusion.sample(tiny_unet, latent)
    assert relative_error(reconstruction, golden["ddim_reconstruction"]) < TOLERANCE
    error = np.abs(golden["x"] - golden["ddim_reconstruction"])
    assert relative_error((x - reconstruction).abs(), error) < TOLERANCE
    # Cut to bytes, a value beside a whole number may fall to its neighbour: so do 0.2 % of the golden's own, which is
    # 3e-5 from a computation in float64.
    difference = np.abs(dire(x, reconstruction).numpy().astype(int) - golden["dire_u8"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@torch.inference_mode()
def test_clipping_loses_no_digits_when_the_network_computes_in_bfloat16():
    """The published way to clip, (x / √ᾱ − x0) / √(1 / ᾱ − 1) in the network's precision, is off by more than 5 %."""
    x = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    exact = torch.sin(40 * x)

    eps = SpacedDiffusion(DiffusionConfig()).first_step_eps(lambda x, t: exact.bfloat16(), x)
    inside = (eps - exact).abs() < 0.5  # where clipping does not bite
    assert inside.float().mean() > 0.9
    assert (eps - exact)[inside].norm() / exact[inside].norm() < 3e-3


@pytest.mark.slow
@torch.inference_mode()
def test_the_full_adm_agrees(reference: Reference, relative_error: Measure):
    """552.8 million parameters: about 25 seconds, 2.3 GB."""
    shapes = reference.shapes("adm_256_uncond")
    with torch.device("meta"):
        unet = AdmUnet(FULL, image_size=256)
    assert {name: list(tensor.shape) for name, tensor in unet.state_dict().items()} == shapes
    unet.load_state_dict(reference.state("adm_256_uncond", 303), assign=True)
    unet.to(memory_format=torch.channels_last)

    golden = reference.golden("adm_256_uncond")
    x = torch.from_numpy(golden["x"])
    once = unet(x, torch.zeros(1, dtype=torch.long))  # both noise maps need the same pass
    for clip, name in ((True, "eps_clipped"), (False, "eps_unclipped")):
        eps = SpacedDiffusion(DiffusionConfig(clip_denoised=clip)).first_step_eps(lambda x, t: once, x)
        assert relative_error(eps, golden[name]) < TOLERANCE


@torch.inference_mode()
def test_a_time_step_is_the_original_index(tiny_unet: AdmUnet):
    seen: list[int] = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen.extend(t.tolist())
        out: Tensor = tiny_unet(x, t)
        return out

    diffusion = SpacedDiffusion(DiffusionConfig(timestep_respacing="ddim4"))
    diffusion.reconstruct(watched, torch.zeros(1, 3, 64, 64))
    assert seen == [0, 250, 500, 750, 750, 500, 250, 0]


def test_the_first_step_keeps_nearly_the_whole_image():
    assert linear_alpha_bars(1000)[0] == pytest.approx(0.9999)


@pytest.mark.parametrize(
    "changed",
    [
        {"resblock_updown": False},
        {"use_scale_shift_norm": False},
        {"num_head_channels": None, "num_heads": 4},
        {"learn_sigma": False},
        {"attention_resolutions": ()},
    ],
)
@torch.inference_mode()
def test_other_architectures_compute(reference: Reference, changed: dict[str, object]):
    config = UnetConfig.model_validate(reference.tiny_config().model_dump() | changed)
    unet = AdmUnet(config, image_size=32)
    assert unet(torch.zeros(2, 3, 32, 32), torch.tensor([0, 999])).shape == (2, 6 if config.learn_sigma else 3, 32, 32)


def test_a_new_network_predicts_nothing_and_can_learn(reference: Reference):
    torch.manual_seed(0)
    unet = AdmUnet(reference.tiny_config(), image_size=32)
    x, t = torch.randn(4, 3, 32, 32), torch.tensor([0, 50, 500, 999])
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = (unet(x, t)[:, :3] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(x.square().mean().item())
    assert losses[-1] < 0.7 * losses[0]
