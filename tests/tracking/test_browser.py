"""MLflow's pages on our runs, in a real browser; skipped where there is none."""

from __future__ import annotations

import copy
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from robustprune.tracking import import_run, serve_ui
from robustprune.tracking.store import connect
from robustprune.tracking.ui import Server

from .sample import RESULTS, write_folder

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="neither Chromium nor Chrome with its driver is installed"
    ),
]

LEAD = {"hydra": 0.1, "magnitude": 0.0}
PGD = {
    f"{pruner}-{density}": 0.4 + density + lead
    for pruner, lead in LEAD.items()
    for density in (0.1, 0.05, 0.01)
}
POINTS = sorted((float(name.split("-")[1]), pgd) for name, pgd in PGD.items())
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1900,1300")
ML = "workflowType=machine_learning"


def results() -> dict[str, Any]:
    """A run of six pruned networks."""
    document = copy.deepcopy(RESULTS)
    document["networks"] = [
        {"name": name, "pruner": name.split("-")[0], "density": float(name.split("-")[1])}
        | {"model": f"{name}/m.safetensors"}
        | {"metrics": {"pgd": pgd, "pgd_n": 96, "pgd_interval": [pgd - 0.1, pgd], "clean": 0.75}}
        for name, pgd in PGD.items()
    ]
    return document


class Site:
    """MLflow's UI on a store with one run, and a browser."""

    def __init__(self, server: Server, driver: Any, uri: str, parent: str) -> None:
        self._address, self._driver = server.address, driver
        self.parent, self.server = parent, server
        client = connect(uri)
        self.experiment = client.get_run(parent).info.experiment_id
        found = client.search_runs([self.experiment], "tags.network != 'none'")
        self.runs = {run.data.tags["network"]: run for run in found}

    def open(self, page: str) -> None:
        self.visit(f"{self._address}/#{page}")

    def wait(self, met: Callable[[Any], Any]) -> Any:
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self._driver, 60).until(met)

    def shows(self, *texts: str) -> None:
        """Wait for all of these to be on the page."""
        try:
            self.wait(lambda driver: all(text in self.text() for text in texts))
        except Exception:
            missing = [text for text in texts if text not in self.text()]
            pytest.fail(f"{missing} not in:\n{self.text()}")

    def text(self) -> str:
        return str(self._driver.execute_script("return document.body.innerText"))

    def click(self, xpath: str) -> None:
        self.wait(lambda driver: driver.find_elements("xpath", xpath))[0].click()

    def visit(self, address: str) -> None:
        self._driver.get("about:blank")  # a change behind the # alone loads nothing
        self._driver.get(address)

    def plot(self) -> Any:
        """What the page's plot was given, once there is one."""
        script = "const p = document.querySelector('.js-plotly-plot'); return p && p.data[0]"
        return self.wait(lambda driver: driver.execute_script(script))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("browsed")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    parent = import_run(write_folder(root / "tiny" / "a", results()), uri=uri)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    with serve_ui(uri, port=port) as server:
        service = webdriver.ChromeService(DRIVER)  # named, so that none is looked for online
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield Site(server, driver, uri, parent)
        finally:
            driver.quit()


def test_all_networks_are_listed_by_robust_accuracy(site: Site) -> None:
    order = quote("metrics.`final/pgd`")
    site.open(f"/experiments/{site.experiment}/runs?{ML}&orderByKey={order}&orderByAsc=false")
    site.shows("tiny, seed 0", "final/pgd", *PGD)
    text = site.text()
    best = sorted(PGD, key=lambda name: -PGD[name])
    assert sorted(PGD, key=lambda name: text.index(f"\n{name}, seed 0\n")) == best


def test_on_arrival_density_is_drawn_against_robust_accuracy_in_the_pruners_colours(
    site: Site,
) -> None:
    charts = site.server.charts()
    assert charts is not None
    name, address = charts
    assert name == "tests"
    site.visit(address)

    def drawn(_: Any) -> Any:
        found = site.plot()
        return len(found.get("x", ())) == len(PGD) and found

    plot = site.wait(drawn)
    assert sorted(zip(map(float, plot["x"]), map(float, plot["y"]), strict=True)) == POINTS
    colours = dict(zip(map(float, plot["y"]), plot["marker"]["color"], strict=True))
    of_pruner = {
        pruner: {colours[pgd] for name, pgd in PGD.items() if name.startswith(pruner)}
        for pruner in LEAD
    }
    assert of_pruner == {"hydra": {"#0072B2"}, "magnitude": {"#D55E00"}}
    site.shows("Density against robust accuracy", "Group by: recipe")


def test_a_run_is_described_by_the_table_of_its_networks(site: Site) -> None:
    site.open(f"/experiments/{site.experiment}/runs/{site.parent}?{ML}")
    site.shows("Description", "turnover", "60.0 ± 5.0", "best/pgd", "final/pgd/hydra-0.1")


def test_a_run_shows_its_numbers_its_parts_its_images_and_its_model(site: Site) -> None:
    run = site.runs["hydra-0.05"]
    site.open(f"/experiments/{site.experiment}/runs/{run.info.run_id}?{ML}")
    site.shows("final/pgd", f"{PGD['hydra-0.05']}"[:6], "final/density", "final/images/pgd")
    site.shows("weak.eps", "cnn_small", "digits (aaaa", "hydra-0_05")


def test_a_model_shows_what_was_measured_of_it_on_which_images(site: Site) -> None:
    (model,) = site.runs["hydra-0.05"].outputs.model_outputs
    site.open(f"/experiments/{site.experiment}/models/{model.model_id}?{ML}")
    site.shows("hydra-0_05", "Ready", "final/pgd", "digits (#bbbb", "density")


def test_six_runs_are_compared_by_density_pruner_and_robust_accuracy(site: Site) -> None:
    runs = json.dumps([site.runs[name].info.run_id for name in PGD])
    experiments = json.dumps([site.experiment])
    site.open(f"/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}")
    site.shows("Comparing 6 Runs", "finetune/loss")  # the first metric that all of them have
    metrics = "(//*[normalize-space(text())='Metrics:']/following::input)[1]"
    site.wait(lambda driver: driver.find_elements("xpath", metrics))[0].send_keys("final/pgd\n")

    def axes(_: Any) -> Any:
        found = {axis["label"]: axis["values"] for axis in site.plot().get("dimensions", ())}
        return "final/pgd" in found and found

    drawn = site.wait(axes)
    assert {"density", "pruner"} <= drawn.keys()
    pairs = zip(map(float, drawn["density"]), drawn["final/pgd"], strict=True)
    assert sorted(pairs) == POINTS


def test_density_against_robust_accuracy_is_a_scatter_of_six_points(site: Site) -> None:
    site.click("//*[@role='tab'][contains(., 'Scatter')]")
    for axis, name in (("x", "final/density"), ("y", "final/pgd")):
        site.click(f"//button[@id='{axis}-axis-selector']")
        site.click(f"//*[@role='option'][normalize-space()='{name}']")

    def points(_: Any) -> Any:
        plot = site.plot()
        found = sorted(zip(plot.get("x", ()), plot.get("y", ()), strict=True))
        return [tuple(map(float, pair)) for pair in found] == POINTS

    site.wait(points)
