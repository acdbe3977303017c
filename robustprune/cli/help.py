"""The help that teaches, a text a command."""

from __future__ import annotations

OVERVIEW = """\
Make neural networks small and robust. A recipe (a YAML file) says what to train, how to prune it
and what to judge it by; one command runs it.

  robustprune run recipes/quickstart.yaml         dense, HYDRA and magnitude pruning on real digits
  robustprune check recipes/quickstart.yaml       what that would do, without training
  robustprune list objectives                     what a recipe can name, with every option
  robustprune evaluate runs/…/model.safetensors   what a saved network withstands, by attacks
  robustprune verify runs/…/model.safetensors     the same proved, by bounds on its logits
  robustprune certify runs/…/model.safetensors    the same proved for it smoothed by noise
  robustprune export runs/…/model.safetensors     a file as small as what is kept
  robustprune report runs/quickstart/<id>         all of it as one page to look at
  robustprune ui                                  compare runs in the browser, in MLflow's UI
"""

RUN = """\
Train a dense network, prune it by every method at every density, finetune, and judge each one.

  robustprune run recipes/quickstart.yaml
  robustprune run recipes/cifar10/cnn_small_trades.yaml --set seed=1 --set prune.densities=[0.01]
  robustprune run recipes/quickstart.yaml --resume     go on where an interrupted run stopped
  robustprune run my.yaml --max-steps 2                try a recipe out in a minute
  robustprune run a.yaml b.yaml --sweep seed=[0,1]     four runs (a-seed-0, …), and their means
  robustprune run my.yaml --processes 4                share each batch among four GPUs, or cores

Ctrl-C or SIGTERM: the step under way is finished and saved, and the line that goes on printed.

A dense network that runs share is trained once, kept in runs/dense/, and reused (--fresh: never).
Everything is written to runs/<recipe>/<id>/: recipe.yaml (resolved), results.json, and a folder a
network with model.safetensors and history.json. MLflow's store is runs/mlflow.db; look at it with
`robustprune ui`.
"""

CHECK = """\
Validate a recipe and print, without training: the resolved recipe, how many weights each layer
keeps at each density, the number of steps, and what would be written where. Exit 2 if anything is
wrong; every problem is named with its line.

  robustprune check my.yaml --set prune.densities=[0.01]
  robustprune check recipes/paper/*.yaml      several: a line each, and no data is read
"""

LIST = """\
List what recipes can name. Without a family: every family. With one: every part and its options.

  robustprune list
  robustprune list objectives
  robustprune list objectives --recipe my.yaml     with the parts that its imports: register
  robustprune list models resnet                   backbones, ours and timm's, that match
"""

SHOW = """\
Show a recipe resolved (every option, defaults included), a model file (architecture, layers,
densities, sizes, where it comes from and what was measured), or a run folder (its table).
"""

EVALUATE = """\
Judge a saved network. Without --evaluator: by those of the recipe that made it, on the same
images and with the same seeds, which gives the same numbers.

  robustprune evaluate runs/quickstart/<id>/hydra-0.01/model.safetensors
  robustprune evaluate model.safetensors --evaluator clean --evaluator pgd:eps=8/255,steps=20
  robustprune evaluate model.safetensors --images images.csv     what became of each image
  robustprune evaluate model.safetensors --state attacking       keep finished batches there

Stopped or killed, the same command with the same --state goes on after the last finished batch, to
the same result; the folder is removed in the end.

Exit 1 if an attack breaks an image that a certificate verified.
"""

CERTIFY = """\
Certify a saved network by randomised smoothing (Cohen et al. 2019): the class that it gives most
often under Gaussian noise cannot be changed within an l2 radius, up to a chance alpha of error an
image. What is certified is the smoothed network. Train it with noise of the same sigma.

  robustprune certify model.safetensors --samples 200
  robustprune certify model.safetensors --sigma 0.5 --n 1e5 --images radii.csv
  robustprune certify model.safetensors --radius 0.5 --sequential
  robustprune certify model.safetensors --n 1e5 --state certifying     killed, it goes on from there

--sequential asks only whether an image is certified at --radius, and stops drawing for it as soon
as that is settled, with the same alpha. `robustprune list evaluators smoothing` shows every option.
"""

VERIFY = """\
Verify a saved network: bounds on its logits prove that no image within eps (l-infinity, cut to
[0, 1]) is classified wrongly. Cheap bounds come first, dear ones only for what is left undecided.

  robustprune verify model.safetensors --eps 2/255 --samples 200
  robustprune verify model.safetensors --bounds ibp,crown --images verdicts.parquet
  robustprune verify model.safetensors --seconds 600 --memory 4     falls back to cheap bounds
  robustprune verify model.safetensors --state verifying            killed, it goes on from there

Prints the clean, the verified and the PGD accuracy, and what the cheaper bounds verify alone: the
exact robust accuracy is between verified and PGD. If PGD breaks a verified image, the certificates
are unsound: that is said, and it exits 1.
`robustprune list evaluators verified` shows every option.
"""

EXPORT = """\
Write a network in a format for others, and a model card (Markdown) beside it.

  robustprune export runs/quickstart/<id>/hydra-0.01/model.safetensors       packed: small, exact
  robustprune export model.safetensors --values fp16                         smaller, rounded
  robustprune export model.safetensors --format dense --out net.pt           a plain state dict
  robustprune export model.safetensors --format onnx                         for other runtimes

dense: the names that the field gives to a network's tensors, for strict=True; .pt or .safetensors.
A network that normalises its images has that folded into its first layer where that is exact, and
otherwise needs --normalisation inside. packed: the format is described in artifacts/PACKED.md of
the package. robustprune reads all of them again; a .pt needs --arch.
"""

IMPORT_HYDRA = """\
Turn a checkpoint of HYDRA's reference implementation into a model file that every command takes.

  robustprune import-hydra model_best.pth.tar --density 0.1            with scores: k must be named
  robustprune import-hydra model_best_dense.pth.tar --data cifar10     without: zeros are the mask
  robustprune evaluate model_best.safetensors --data cifar10 --evaluator pgd:eps=8/255

It is read as data: nothing in it is executed. The mask follows the reference's rule, which may keep
one weight a layer more than robustprune's own at the same density.
"""

REPORT = """\
Write one HTML page about some runs, which needs no other file and no network, and its figures as
PNGs beside it: accuracy against density, against the attack's radius and against the certified one,
what masks keep by magnitude and by layer, training curves, and attacked images.

  robustprune report runs/quickstart/<id>                     to report/report.html in that folder
  robustprune report runs/quickstart/* --out seeds.html     means over seeds
  robustprune report mlflow:quickstart --uri http://localhost:5000

Runs whose recipes differ only in seed and name are one: means with intervals over seeds. What a run
left no files for is said on the page. Nothing is downloaded: images are shown where the dataset's
files are found.
"""

COMPARE = """\
Print the final metrics of some runs, networks of one name below each other, and every option in
which their recipes differ.

  robustprune compare runs/quickstart/<id> runs/quickstart/<other id>
  robustprune compare benchmarks/results/quickstart/seed-*.json
  robustprune compare mlflow:quickstart runs/quickstart/<id>

Runs whose recipes differ only in their seed are one row: the mean, and how many there are.
"""

UI = """\
Open MLflow's UI on the store that runs are recorded in, print its address, and serve it to this
machine until Ctrl-C.

  robustprune ui                             the store of MLFLOW_TRACKING_URI, or runs/mlflow.db
  robustprune ui elsewhere/runs              the one of another runs folder, or of a run folder
  robustprune ui recipes/quickstart.yaml     the one that a recipe's tracking: names
  robustprune ui sqlite:///my.db --port 5001

A recipe's run has a run a network in it. Sorted by final/pgd, all networks stand in one list. Tick
some and press Compare, for a scatter of final/density against final/pgd and parallel coordinates.
"""

SCHEMA = """\
Print the JSON Schema of recipes, for editors that complete and check YAML:

  robustprune schema > recipe.schema.json
  # yaml-language-server: $schema=recipe.schema.json      (first line of a recipe)
"""
