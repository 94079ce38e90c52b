"""``reforge pretrain``."""

from __future__ import annotations

from stages.options import DEFAULT_PARAMS, DryRun, LayoutOption, Overrides, Params, ProfileOption
from stages.run import RUNS, stage_run


def pretrain(
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    layout: LayoutOption = "auto",
    profile: ProfileOption = False,
) -> None:
    """Train a model on the tokenized sources: from scratch, or from one that exists.

    `start` names the folder of a model to begin with: a checkpoint, a run, or what another
    library wrote, as `reforge convert --from` reads it. It must be the recipe's `model` and have
    the pipeline's tokenizer (`tokenizer: {kind: existing, path: DIR}`). With `steps: 0` it is
    taken as it is, for the stages that follow.

    The run lives in `runs/pretrain-<identity>/`, where the identity is a hash of the recipe and
    of the inputs' roots. Killed anywhere, the same command continues from its last checkpoint
    and ends with the bits of an uninterrupted run.

    By default it takes as many ranks as the grid allows and this machine has room for;
    `--layout data=2` (or `REFORGE_LAYOUT`) takes two. Under torchrun or srun it joins the ranks
    that exist. The layout changes no bit, so DVC does not track it.
    """
    with stage_run(
        "pretrain",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["tokenize"],
        layout=layout,
    ) as run:
        from megatron_core.parallel.mesh import open_mesh
        from megatron_core.trainer.assemble import pretraining
        from stages.training import take_over, tokenizer_of_tokens, train

        config = run.recipe.pretrain
        if not config.steps:
            take_over(run)
            return
        with open_mesh(run.layout, config.device, config.threads) as mesh:
            trainer = pretraining(
                config, run.input("tokenize"), run.input_roots, RUNS, mesh,
                tokenizer=tokenizer_of_tokens(run),
            )  # fmt: skip
            trained = train(trainer, run.output, profile=profile)
        run.content = {"model": trained.checkpoint.root}
        run.metrics(trained.metrics)
        run.summary(trained.summary)
