"""What is measured of a trained model: its likelihood beside the model's own terms, its samples beside real images."""

import json
import math

import pytest
import torch
from torch import nn

from dgmkern import evaluation
from dgmkern.cli import main
from dgmkern.data import ImageDataset, load, to_signed
from dgmkern.evaluation import evaluate_likelihood, evaluate_samples
from dgmkern.models.ddpm import DDPM, DDPMConfig
from dgmkern.models.vae import VAE, VAEConfig

SHAPE = (1, 8, 8)
SMALL = VAEConfig(encoder=(16,), decoder=(16,), latent=3)


@pytest.fixture
def cache(classifier_cache, monkeypatch):
    monkeypatch.setenv("DGMKERN_CACHE", str(classifier_cache))


class Copies(nn.Module):
    """Draws training images, the first or all of one class."""

    def __init__(self, label: int | None = None) -> None:
        super().__init__()
        train = load("digits")
        self.images = to_signed(train.images if label is None else train.images[train.labels == label])

    def sample(self, n, *, seed, first, progress):
        return self.images[first : first + n]


def test_samples_as_good_as_data_are_near_it_and_of_one_class_are_not(cache):
    test = load("digits", "test")
    good = evaluate_samples(Copies(), test, 360, seed=0, progress=False)
    assert good["features"].startswith("classifier:digits:")
    assert good["classes"] == 10
    assert good["reverse_kl_of_classes"] < 0.01
    bad = evaluate_samples(Copies(3), test, 100, seed=0, progress=False)
    assert bad["classes"] <= 2
    assert bad["reverse_kl_of_classes"] == pytest.approx(math.log(10), abs=0.2)
    assert bad["frechet_distance"] > 10 * good["frechet_distance"]
    assert good["numerical_error"] < 1e-5
    assert any("samples" in caveat for caveat in bad["caveats"])


def test_a_model_with_classes_draws_those_of_the_data_in_their_shares(cache, monkeypatch):
    test = load("digits", "test")
    few = ImageDataset("digits", "test", test.images[:360], test.labels[:360] // 7, test.classes)  # 7 tenths and 3
    model = DDPM(DDPMConfig(channels=8, multipliers=(1, 2), head_dim=16, timesteps=4, classes=10), SHAPE)
    asked = []

    def draw(model, n, *, labels, **options):
        asked.append(labels)
        return test.images[torch.arange(n) % 360]

    monkeypatch.setattr(evaluation, "draw_images", draw)
    evaluate_samples(model, few, 2000, seed=0, progress=False)
    counts = torch.bincount(asked[0], minlength=10)
    assert counts[2:].sum() == 0
    share = few.labels.double().mean().item()
    deviation = math.sqrt(share * (1 - share) * 2000)
    assert abs(counts[1].item() - 2000 * share) < 4 * deviation


def test_figures_of_a_vae_are_means_over_images_with_their_standard_errors():
    torch.manual_seed(0)
    model = VAE(SMALL, SHAPE)
    test = load("digits", "test")
    figures = evaluate_likelihood(model, test, 360, samples=300, seed=1, progress=False)
    x = to_signed(test.images)
    with torch.no_grad():
        mu, logvar = model.posterior(x)
        kl = torch.distributions.kl_divergence(
            torch.distributions.Normal(mu.double(), (logvar.double() / 2).exp()), torch.distributions.Normal(0.0, 1.0)
        ).sum(1)
    assert figures["kl"] == pytest.approx(kl.mean().item(), rel=1e-5)
    assert figures["kl_standard_error"] == pytest.approx(kl.std().item() / 360**0.5, rel=1e-5)
    assert figures["elbo"] == pytest.approx(figures["log_likelihood"] - figures["kl"], rel=1e-9)
    assert figures["nll"] < -figures["elbo"] + 0.1  # the bound of 300 samples is tighter, up to the noise of one
    assert figures["active_units"] == int((mu.double().var(0) > 0.01).sum())
    assert 0 <= figures["mutual_information"] <= math.log(360)


def test_the_terms_of_a_diffusion_model_add_up_and_the_images_are_of_the_whole_split():
    torch.manual_seed(0)
    model = DDPM(DDPMConfig(channels=8, head_dim=16, timesteps=5), SHAPE)
    test = load("digits", "test")
    figures = evaluate_likelihood(model, test, 40, samples=2, seed=3, progress=False)
    assert figures["bits_per_dim"] == pytest.approx(figures["L_0"] + figures["L_1_to_T-1"] + figures["L_T"], rel=1e-9)
    drawn = torch.randperm(360, generator=torch.Generator().manual_seed(3))[:40]
    bound = model.eval().bits_per_dim(to_signed(test.images[drawn]), seed=3)
    assert figures["bits_per_dim"] == pytest.approx(bound.total.mean().item(), rel=1e-9)
    assert len(set(test.labels[drawn].tolist())) == 10


def test_a_model_without_a_likelihood_has_no_figures_of_it():
    assert evaluate_likelihood(Copies(), load("digits", "test"), 10, samples=2, seed=0, progress=False) == {}


@pytest.mark.parametrize("n", [1, 361])
def test_more_images_than_there_are_is_an_error(n):
    with pytest.raises(ValueError, match="n: expected 2 to 360 images of digits:test"):
        evaluate_likelihood(VAE(SMALL, SHAPE), load("digits", "test"), n, samples=2, seed=0)


def test_one_image_has_no_standard_error():
    test = load("digits", "test")
    one = ImageDataset("digits", "test", test.images[:1], test.labels[:1], test.classes)
    with pytest.raises(ValueError, match="dataset: got 1 image of digits:test, want at least 2"):
        evaluate_likelihood(VAE(SMALL, SHAPE), one, 1, samples=2, seed=0)


def test_the_command_prints_every_figure(cache, tmp_path, capsys):
    run = tmp_path / "vae"
    tiny = ("--model.encoder", "8", "--model.decoder", "8", "--model.latent", "2", "--steps", "2", "--batch-size", "8")
    assert main(["train", "vae", "--out", str(run), *tiny]) == 0
    capsys.readouterr()
    argv = ["evaluate", str(run), "--n", "50", "--importance-samples", "5"]
    assert main([*argv, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["data"] == "digits:test"
    assert record["step"] == 2
    assert {"nll", "elbo", "kl_standard_error", "frechet_distance", "classes", "caveats"} <= set(record)
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert f"nll: {record['nll']:.6g} +- " in text
    assert "caveat: " in text
    assert main(["evaluate", str(run), "--n", "1"]) == 2
    assert "--n: got 1, want at least 2" in capsys.readouterr().err
