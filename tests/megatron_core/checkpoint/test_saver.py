"""Any cut of the state between ranks gives the same checkpoint, and a failure leaves none."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_core.checkpoint import (
    CheckpointSaver,
    Part,
    Placement,
    find_checkpoints,
    last_checkpoint,
    load_parts,
    read_checkpoint,
    snapshot,
    verify_checkpoint,
)
from megatron_core.checkpoint import saver as module
from megatron_core.errors import ReforgeError
from megatron_core.identity import merkle_root
from megatron_core.optimizer.flat import BLOCK
from tests.megatron_core.checkpoint.cuts import (
    PLACEMENTS,
    begin,
    change_byte,
    cut,
    empty_state,
    leaf,
    same,
    save_alone,
    some_state,
)
from tests.ranks import run_ranks


def expected_root(step: int = 7) -> str:
    leaves = {
        f"{kind}/{name}/{shard}": leaf(PLACEMENTS[name], data)
        for (kind, name, shard), data in some_state().items()
    }
    scalars = {"scalars/loss_scale": (1024.0).hex()}
    return merkle_root({**leaves, **scalars, "step": str(step)})


def join() -> tuple[int, int, dist.ProcessGroup]:
    """Join the ranks: this one's number, how many there are, and a group for checkpoints."""
    dist.init_process_group("gloo")
    group = dist.new_group(backend="gloo")
    assert group is not None
    return dist.get_rank(), dist.get_world_size(), group


def save_load_save(folder: Path, seed: int) -> None:
    """Save one cut; load into another and save that."""
    rank, ranks, group = join()
    saver = CheckpointSaver(group)
    state = some_state()
    begin(saver, folder / "step-00000007", cut(state, seed, ranks)[rank])
    for data in state.values():
        data.add_(1)  # the step after goes on meanwhile
    first = saver.wait()
    assert first is not None
    loaded = empty_state()
    mine = cut(loaded, seed + 1, ranks)[rank]
    load_parts(folder / "step-00000007", mine, PLACEMENTS)
    stored = cut(some_state(), seed + 1, ranks)[rank]
    for got, wanted in zip(mine, stored, strict=True):
        assert torch.equal(got.data.view(torch.int32), wanted.data.view(torch.int32)), got.key
    begin(saver, folder / "step-00000008", mine)
    second = saver.wait()
    assert second is not None
    assert first.root == second.root
    (folder / f"root-{rank}").write_text(first.root)
    dist.destroy_process_group()


@pytest.mark.parametrize(("ranks", "seed"), [(2, 0), (4, 1)])
def test_the_root_does_not_depend_on_who_owns_what(ranks: int, seed: int, tmp_path: Path) -> None:
    assert run_ranks(save_load_save, ranks, tmp_path, seed) == [0] * ranks
    roots = {(tmp_path / f"root-{rank}").read_text() for rank in range(ranks)}
    assert roots == {expected_root()}
    for step in (7, 8):
        checkpoint = verify_checkpoint(tmp_path / f"step-{step:08d}")
        assert checkpoint.root == expected_root()
        assert len([name for name in checkpoint.files if "distcp" in name]) == 3 * ranks
    # Onto one rank, and from there onto three.
    for seed_, readers in ((5, 1), (6, 3)):
        loaded = empty_state()
        for parts in cut(loaded, seed_, readers):
            load_parts(tmp_path / "step-00000008", parts, PLACEMENTS)
        assert same(loaded, some_state())


def save_where_one_owns_all(folder: Path) -> None:
    rank, _, group = join()
    saver = CheckpointSaver(group)
    begin(saver, folder / "step-00000007", cut(some_state(), 0, 1)[0] if rank == 1 else [])
    saver.wait()
    dist.destroy_process_group()


def test_a_rank_may_own_nothing(tmp_path: Path) -> None:
    assert run_ranks(save_where_one_owns_all, 2, tmp_path) == [0, 0]
    assert verify_checkpoint(tmp_path / "step-00000007").root == expected_root()


def test_one_process(tmp_path: Path) -> None:
    checkpoint = save_alone(tmp_path / "step-00000007", some_state())
    assert checkpoint.root == expected_root()
    assert checkpoint == verify_checkpoint(tmp_path / "step-00000007")
    assert (checkpoint.step, checkpoint.run, checkpoint.model) == (7, "run", {"kind": "none"})
    assert checkpoint.layout == {"data": 1, "schedule": "1f1b"}
    assert checkpoint.scalars == {"loss_scale": 1024.0}
    assert checkpoint.tensors == dict(sorted(PLACEMENTS.items()))
    assert list(checkpoint.leaves) == sorted(checkpoint.leaves)
    assert save_alone(tmp_path / "step-00000008", some_state(), step=8).root == expected_root(8)


def test_the_root_is_of_bits_names_and_shapes(tmp_path: Path) -> None:
    def root(
        name: str = "x", shape: tuple[int, ...] = (4, 6), change: float = 0.0, scale: float = 1.0
    ) -> str:
        data = torch.arange(24.0)
        data[0] = change
        saver = CheckpointSaver(None)
        saver.save(
            tmp_path / "step-00000001", [Part("weights", name, 0, 0, data)],
            {name: Placement(shape=shape)}, step=1, run="r", model={}, layout={},
            scalars={"scale": scale},
        )  # fmt: skip
        checkpoint = saver.wait()
        assert checkpoint is not None
        return checkpoint.root

    others = [root("y"), root(shape=(6, 4)), root(change=-0.0), root(scale=2.0)]
    assert len({root(), *others}) == 5
    assert root() == root()


def test_the_caller_goes_on_and_a_second_save_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    write = module.write_parts

    def gated(*arguments: object) -> None:
        gate.wait()
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_parts", gated)
    saver, state = CheckpointSaver(None), some_state()
    parts = cut(state, 0, 1)[0]
    begin(saver, tmp_path / "step-00000001", parts, step=1)
    for data in state.values():
        data.mul_(2)
    second = threading.Thread(
        target=begin, args=(saver, tmp_path / "step-00000002", parts), kwargs={"step": 2}
    )
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert find_checkpoints(tmp_path) == []
    gate.set()
    second.join()
    found = saver.wait()
    assert found is not None
    assert found.step == 2
    assert saver.wait() == found
    assert read_checkpoint(tmp_path / "step-00000001").root == expected_root(1)
    loaded = empty_state()
    load_parts(tmp_path / "step-00000002", cut(loaded, 3, 1)[0], PLACEMENTS)
    assert same(loaded, state)


def test_the_end_of_the_block_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = cut(some_state(), 0, 1)[0]
    with CheckpointSaver(None) as saver:
        begin(saver, tmp_path / "step-00000001", parts)
    assert find_checkpoints(tmp_path) == [tmp_path / "step-00000001"]
    with pytest.raises(ZeroDivisionError), CheckpointSaver(None) as saver:
        begin(saver, tmp_path / "step-00000002", parts)
        raise ZeroDivisionError
    assert len(find_checkpoints(tmp_path)) == 2
    with (
        pytest.raises(ReforgeError, match="step-00000003 was not written"),
        CheckpointSaver(None) as saver,
    ):
        begin(saver, tmp_path / "step-00000003", [*parts, *parts])
    with pytest.raises(ZeroDivisionError), CheckpointSaver(None) as saver:
        begin(saver, tmp_path / "step-00000003", [*parts, *parts])
        raise ZeroDivisionError
    assert "step-00000003 was not written" in caplog.text


def test_buffers_of_another_save_do_not_get_in_the_way(tmp_path: Path) -> None:
    saver = CheckpointSaver(None)
    for step, seed in ((7, 0), (8, 0), (9, 5)):
        begin(saver, tmp_path / f"step-{step:08d}", cut(some_state(), seed, 1)[0])
    saver.wait()
    assert {read_checkpoint(path).root for path in find_checkpoints(tmp_path)} == {expected_root()}


def test_long_parts_are_written_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_CHUNK", BLOCK)
    begin(saver := CheckpointSaver(None), tmp_path / "c", cut(some_state(), 0, 1)[0])
    assert saver.wait()
    assert read_checkpoint(tmp_path / "c").root == expected_root()
    loaded = empty_state()
    load_parts(tmp_path / "c", cut(loaded, 1, 1)[0], PLACEMENTS)
    assert same(loaded, some_state())


def test_saves_prune(tmp_path: Path) -> None:
    saver = CheckpointSaver(None)
    parts = [Part("weights", "x", 0, 0, torch.zeros(5))]
    for step in range(1, 8):
        saver.save(
            tmp_path / f"step-{step:08d}", parts, {"x": Placement(shape=(5,))}, step=step,
            run="r", model={}, layout={}, keep_last=2, keep_every=3,
        )  # fmt: skip
    assert saver.wait()
    assert [int(path.name[5:]) for path in find_checkpoints(tmp_path)] == [3, 6, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: [*p, p[0]], "has two owners"),
        (lambda p: [q for q in p if q.offset == 0], "have no owner"),
        (lambda p: [q for q in p if q.shard == 0], "/1 has no owner"),
        (lambda p: [*p, Part("first", "new", 0, 0, torch.zeros(2))], "new/0 has no placement"),
        (lambda p: [*p, Part("first", "norm.weight", 0, 8, torch.zeros(40))], "are no blocks"),
        (lambda p: [*p, Part("first", "norm.weight", 1, 0, torch.zeros(48))], "are no blocks"),
        (lambda p: [*p, Part("first", "norm.weight", 0, 0, torch.zeros(47))], "are no blocks"),
        (lambda p: [*p, Part("x", "scale", 0, 0, torch.zeros(1).half())], "parts are flat fp32"),
    ],
)  # fmt: skip
def test_parts_that_are_no_cut_are_refused(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    saver = CheckpointSaver(None)
    begin(saver, tmp_path / "step-00000001", change(cut(some_state(), 2, 1)[0]))
    with pytest.raises(ReforgeError, match=message):
        saver.wait()
    assert list(tmp_path.iterdir()) == []
    assert saver.wait() is None  # said once


def save_apart(folder: Path) -> None:
    """Each rank has a disk of its own under the same name."""
    rank, ranks, group = join()
    os.chdir(folder / str(rank))
    saver = CheckpointSaver(group)
    begin(saver, Path("step-00000001"), cut(some_state(), 3, ranks)[rank])
    with pytest.raises(ReforgeError, match="in a folder that all machines share"):
        saver.wait()
    assert not list(Path().glob("step-*"))
    dist.destroy_process_group()


def test_disks_that_are_not_shared_are_refused(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    assert run_ranks(save_apart, 2, tmp_path) == [0, 0]


def fail_on_one(folder: Path, full: int) -> None:
    """The disk is full for rank ``full``: all say so and go on."""
    rank, ranks, group = join()
    saver = CheckpointSaver(group)
    mine = cut(some_state(), 3, ranks)[rank]
    begin(saver, folder / "step-00000001", mine, step=1)
    saver.wait()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, old[1]))
    begin(saver, folder / "step-00000002", mine, step=2)
    try:
        saver.wait()
    except ReforgeError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        (folder / f"said-{rank}").write_text(str(error))
    dist.barrier(group)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["step-00000001"]
    dist.barrier(group)
    begin(saver, folder / "step-00000003", mine, step=3)
    saver.wait()
    dist.destroy_process_group()


@pytest.mark.parametrize("full", [0, 1])
def test_a_full_disk_on_one_rank_is_said_by_all(full: int, tmp_path: Path) -> None:
    assert run_ranks(fail_on_one, 2, tmp_path, full) == [0, 0]
    said = {(tmp_path / f"said-{rank}").read_text() for rank in range(2)}
    (message,) = said
    assert message.startswith(f"the checkpoint {tmp_path / 'step-00000002'} could not be written (")
    assert f"rank {full}: " in message
    assert "File too large" in message
    assert "free the disk" in message
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].root) == ("step-00000003", expected_root(3))


def fail_to_read(folder: Path) -> None:
    """The disk of one rank gives nothing back."""
    rank, ranks, group = join()
    saver = CheckpointSaver(group)
    if rank == 1:

        def failing(path: Path) -> str:
            raise OSError(5, "Input/output error")

        module.hash_file = failing  # type: ignore[attr-defined]
    begin(saver, folder / "step-00000001", cut(some_state(), 3, ranks)[rank])
    with pytest.raises(ReforgeError, match=r"rank 1: OSError: \[Errno 5\] Input/output error"):
        saver.wait()
    dist.barrier(group)
    assert list(folder.iterdir()) == []
    dist.destroy_process_group()


def test_no_rank_waits_for_one_that_failed(tmp_path: Path) -> None:
    assert run_ranks(fail_to_read, 2, tmp_path) == [0, 0]


def killed(folder: Path, victim: int, where: str) -> None:
    """Rank ``victim`` is killed in the middle of its second save."""
    if "RANK" in os.environ:
        rank, ranks, group = join()
    else:
        rank, ranks, group = 0, 1, None
    saver = CheckpointSaver(group)
    mine = cut(some_state(), 3, ranks)[rank]
    begin(saver, folder / "step-00000001", mine, step=1)
    saver.wait()
    if rank == victim:
        setattr(module, where, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    begin(saver, folder / "step-00000002", mine, step=2)
    try:
        saver.wait()
    except ReforgeError as error:
        (folder / "survivor").write_text(str(error))
        raise SystemExit(1) from None


@pytest.mark.parametrize(
    ("ranks", "victim", "where"),
    [(1, 0, "write_json"), (1, 0, "replace_folder"), (2, 1, "hash_file"), (2, 0, "hash_file")],
)
def test_a_kill_while_saving_leaves_the_one_before(
    ranks: int, victim: int, where: str, tmp_path: Path
) -> None:
    codes = run_ranks(killed, ranks, tmp_path, victim, where)
    assert codes[victim] == -signal.SIGKILL
    if ranks > 1:
        # The launcher may have ended the survivor before it could say so.
        survivor = tmp_path / "survivor"
        assert codes[1 - victim] == -signal.SIGKILL or "is gone" in survivor.read_text()
        survivor.unlink(missing_ok=True)
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].root) == ("step-00000001", expected_root(1))
    save_alone(tmp_path / "step-00000002", some_state(), step=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000001", "step-00000002"]


def agree_on_the_last(folder: Path) -> None:
    rank, _, group = join()
    found = last_checkpoint(folder, group)
    assert found is not None
    (folder / f"found-{rank}").write_text(found[0].name)
    dist.destroy_process_group()


@pytest.mark.parametrize("file", ["first/.metadata", "first/__0_0.distcp"])
def test_ranks_agree_on_the_last_whole_checkpoint(file: str, tmp_path: Path) -> None:
    """Each hashes some of the files, so that only one of them sees the damage."""
    for step in (1, 2):
        save_alone(tmp_path / f"step-{step:08d}", some_state(), step)
    change_byte(tmp_path / "step-00000002" / file)
    assert run_ranks(agree_on_the_last, 2, tmp_path) == [0, 0]
    assert {(tmp_path / f"found-{rank}").read_text() for rank in range(2)} == {"step-00000001"}
