"""Every attack of torchattacks, by name, on what it can do and on what it cannot."""

import pytest
import torch
from torch import nn

from robustprune.adapters import attack_arguments
from robustprune.adapters import torchattacks as adapter
from robustprune.adapters.attack_arguments import check_fits
from robustprune.errors import UsageError
from robustprune.evaluators import create

pytestmark = pytest.mark.slow

SHORT = {
    "CW": {"steps": 5},
    "DeepFool": {"steps": 3},
    "EADEN": {"max_iterations": 10, "binary_search_steps": 2},
    "EADL1": {"max_iterations": 10, "binary_search_steps": 2},
    "FAB": {"steps": 3},
    "OnePixel": {"steps": 1},
    "Pixle": {"restarts": 1, "max_iterations": 2},
    "SPSA": {"nb_sample": 4, "max_batch_size": 2},
    "SparseFool": {"steps": 2},
    "Square": {"n_queries": 10},
}
REFUSED = {
    ("APGDT", "classes"): "at least 4 classes",
    ("AutoAttack", "classes"): "at least 4 classes",
    ("DIFGSM", "wide"): "as high as wide",
    ("PIFGSM", "grey"): "3 channels",
    ("PIFGSMPP", "grey"): "3 channels",
    ("Pixle", "wide"): "as high as wide",
    ("TIFGSM", "grey"): "3 channels",
    ("TIFGSM", "wide"): "as high as wide",
}
CASES = [
    (attack, norm)
    for attack in attack_arguments.attack_names()
    for norm in (
        [attack_arguments.traits(attack).norm]
        if attack_arguments.traits(attack).norm
        else ["linf", "l2"]
    )
]
SIZES = {
    "square": [(1, 10, 10, 2), (3, 10, 10, 3), (1, 10, 10, 10), (3, 10, 10, 10)],
    "wide": [(3, 10, 13, 10), (1, 12, 10, 10)],
}


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    """AutoAttack has Square ask 5000 times; that is slow here, and changes nothing."""
    from torchattacks.attacks import autoattack

    square = autoattack.Square
    monkeypatch.setattr(
        autoattack, "Square", lambda model, **kwargs: square(model, **kwargs | {"n_queries": 10})
    )


def network(channels, height, width, classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes)).eval()


def images(channels, height, width):
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def judged(attack, norm, model, batch, **options):
    """What the evaluator says of the network's own answers."""
    eps = {"linf": 0.01, "l2": 0.05}[norm]
    options = {"eps": eps, "args": SHORT.get(attack, {})} | options
    evaluator = create("torchattacks", attack=attack, norm=norm, label="it", **options)
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        labels = model(batch.to(dtype)).argmax(1)
    torch.manual_seed(2)
    return evaluator.judge(model, batch, labels, seed=0)["it"]


def expected(attack, norm, channels, height, width, classes):
    """What it is refused for, or None."""
    reasons = [
        ("classes", classes < 4),
        ("grey", channels == 1),
        ("wide", height != width),
    ]
    for reason, there in reasons:
        if there and (attack, reason) in REFUSED:
            return REFUSED[attack, reason]
    if attack in ("AutoAttack", "Square") and norm == "l2" and (height, width) != (10, 10):
        return "its squares fit into"
    return None


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_it_gives_a_number_or_says_what_it_needs(attack, norm, kind):
    for size in SIZES[kind]:
        model, batch = network(*size), images(*size[:3])
        if (reason := expected(attack, norm, *size)) is None:
            assert judged(attack, norm, model, batch).shape == (2,)
        else:
            with pytest.raises(
                UsageError, match=rf"evaluator 'it': torchattacks.{attack} .*{reason}"
            ):
                judged(attack, norm, model, batch)


@pytest.mark.parametrize("attack", ["PGD", "APGD", "Square", "FAB", "OnePixel"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_in_another_precision_is_attacked_all_the_same(attack, dtype):
    model = network(3, 10, 10, 4).to(dtype)
    assert judged(attack, "linf", model, images(3, 10, 10)).shape == (2,)


@pytest.mark.parametrize("name", ["clean", "pgd", "autoattack", "smoothing"])
def test_so_it_is_judged_by_our_own_evaluators(name):
    options = {"smoothing": {"n0": 10, "n": 100}, "autoattack": {"version": "rand", "steps": 2}}
    model, batch = network(3, 10, 10, 4).bfloat16(), images(3, 10, 10)
    labels = model(batch.bfloat16()).argmax(1)
    judge = create(name, label="it", **options.get(name, {})).judge
    assert judge(model, batch, labels, seed=0)["it"].dtype == torch.bool


class Dead(nn.Module):
    """A network that gives one answer, and no gradient."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 0, 0, 0]))

    def forward(self, batch):
        return batch.flatten(1).sum(1, keepdim=True) * 0 + self.bias


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_where_there_is_no_gradient_nothing_is_found(attack, norm):
    assert judged(attack, norm, Dead().eval(), images(3, 10, 10)).all()


# AutoAttack returns what withstands as it came; its members are here
BOUNDED = [
    c for c in CASES if not attack_arguments.traits(c[0]).minimum_norm and c[0] != "AutoAttack"
]


@pytest.mark.parametrize(("attack", "norm"), BOUNDED)
def test_the_whole_ball_is_in_reach(attack, norm, monkeypatch):
    """The step follows from the radius, which the library's own, 2/255, does not."""
    eps, made = {"linf": 0.3, "l2": 2.0}[norm], []
    model, batch = network(3, 10, 10, 4), torch.full((2, 3, 10, 10), 0.5)
    perturb = adapter.perturb
    monkeypatch.setattr(
        adapter, "perturb", lambda *a, **k: made.append(perturb(*a, **k)) or made[0]
    )
    judged(attack, norm, model, batch, eps=eps)
    delta = (made[0] - batch).flatten(1)
    length = delta.abs().amax() if norm == "linf" else delta.norm(dim=1).amax()
    assert 0.99 * eps <= length <= eps * (1 + 1e-5)


@pytest.mark.parametrize("attack", ["BIM", "PGD", "MIFGSM", "VNIFGSM", "PGDRS", "Jitter", "TPGD"])
def test_a_step_that_does_not_reach_is_refused(attack):
    with pytest.raises(
        UsageError, match=r"args: alpha: 10 × 0.002 = 0.02 does not reach eps = 0.3"
    ):
        create("torchattacks", attack=attack, eps=0.3, args={"alpha": 0.002})
    with pytest.raises(UsageError, match="does not reach"):
        create("torchattacks", attack=attack, args={"eps": 0.3, "alpha": 0.1, "steps": 2})
    assert create("torchattacks", attack=attack, eps=0.3, args={"alpha": 0.03}).radius == 0.3


def test_bim_breaks_what_its_ball_holds():
    """With the library's step of 2/255 5 of these stayed."""
    torch.manual_seed(0)
    model = network(1, 5, 5, 2)
    batch = 0.3 + 0.4 * torch.rand(40, 1, 5, 5)
    assert not judged("BIM", "linf", model, batch, eps=0.3).any()


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("MultiAttack", "tries others one after the other. Name each"),
        ("multiattack", "MultiAttack is no attack of its own"),
        ("LGV", "trained copies"),
    ],
)
def test_wrappers_are_told_from_attacks(attack, words):
    with pytest.raises(UsageError, match=words):
        create("torchattacks", attack=attack, eps=0.1)


@pytest.mark.parametrize(
    ("attack", "args", "words"),
    [
        ("PGD", {"steps": "many"}, "steps must be a whole number from 1 on; got 'many'"),
        ("PGD", {"steps": 0}, "steps must be a whole number"),
        ("Square", {"n_queries": 1.5}, "n_queries must be a whole number"),
        ("EADL1", {"max_iterations": 5}, "max_iterations of at least 10"),
    ],
)
def test_arguments_that_the_library_stumbles_over_are_named_at_once(attack, args, words):
    with pytest.raises(UsageError, match=words):
        create("torchattacks", attack=attack, eps=0.1, args=args)


@pytest.mark.parametrize(
    ("attack", "args", "size"),
    [
        ("UPGD", {"loss": "unheard of"}, (3, 10, 10)),
        ("DIFGSM", {"resize_rate": 1.3}, (3, 10, 10)),
        ("DIFGSM", {}, (3, 1, 1)),
        ("APGDT", {"n_classes": 12}, (3, 10, 10)),
        ("CW", {"c": "large"}, (3, 10, 10)),
        ("Pixle", {"pixel_mapping": "none"}, (3, 10, 10)),
    ],
)
def test_whatever_else_stops_the_library_is_told_in_its_words(attack, args, size):
    with pytest.raises(
        UsageError, match=rf"torchattacks.{attack} cannot do with .*It stops with \w+"
    ):
        judged(attack, "linf", network(*size, 5), images(*size), args=args, eps=1e-5)


@pytest.mark.parametrize("attack", ["APGD", "UPGD"])
def test_a_loss_that_ranks_three_logits_needs_them(attack):
    with pytest.raises(UsageError, match=f"{attack} with loss dlr needs .* at least 3 classes"):
        judged(attack, "linf", network(3, 5, 5, 2), images(3, 5, 5), args={"loss": "dlr"})


def test_a_network_s_own_failure_stays_its_own():
    class Broken(nn.Linear):
        def forward(self, batch):
            raise RuntimeError("of my own")

    with pytest.raises(RuntimeError, match="of my own"):
        adapter.perturb("PGD", Broken(1, 2), images(3, 5, 5), torch.tensor([0, 1]))


def test_too_little_memory_is_no_fault_of_the_attack(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("torchattacks.PGD.forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        adapter.perturb("PGD", network(3, 5, 5, 2), images(3, 5, 5), torch.tensor([0, 1]))


@pytest.mark.parametrize("size", [(7, 7), (9, 9), (12, 12), (9, 13), (13, 9), (14, 14), (28, 32)])
def test_square_s_need_is_the_library_s(size):
    """In ℓ2 it starts from a grid that leaves some images; without our word it stops half-way."""
    import torchattacks

    def library():
        for seed in range(3):
            attack = torchattacks.Square(Dead(), norm="L2", eps=0.5, n_queries=4, seed=seed)
            attack(torch.rand(1, 1, *size), torch.tensor([0]))

    def ours():
        need = {"classes": 4, "arguments": {"norm": "L2"}, "evaluator": "it"}
        check_fits("Square", shape=(1, *size), **need)

    def works(call, error):
        try:
            call()
        except error:
            return False
        return True

    assert works(ours, UsageError) == works(library, RuntimeError)


@pytest.mark.parametrize("attack", attack_arguments.ONE_BY_ONE)
def test_something_is_seen_of_attacks_that_take_one_image_after_the_other(attack):
    assert create("torchattacks", attack=attack, eps=0.1).batch_size == 1
    assert create("torchattacks", attack=attack, eps=0.1, batch_size=9).batch_size == 9
    assert create("torchattacks", attack="PGD", eps=0.1).batch_size == 250


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_jsma_aims_at_the_next_class_of_those_there_are(classes):
    torch.manual_seed(0)
    model = network(1, 3, 3, classes)
    batch = images(1, 3, 3)
    labels = model(batch).argmax(1)
    aims = (labels + 1) % classes
    perturbed = adapter.perturb("JSMA", model, batch, labels, gamma=1.0)
    gain = (model(perturbed) - model(batch)).softmax(1).gather(1, aims[:, None])
    assert (gain > 1 / classes).all()
