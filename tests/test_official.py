import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from fima.authors.flags import FLAGS, Flag, Program, flags_of, parse_flags
from fima.authors.main import main
from fima.authors.translate import Translation, reworded, translate
from fima.config import DataConfig, FinetuneConfig, PretrainConfig
from fima.errors import ConfigError
from fima.recipe import flatten
from tests.test_datasets import touch

REPOSITORY = Path(__file__).parents[1]
DISTRIBUTED = "--dist_url 'tcp://localhost:10001' --multiprocessing_distributed --world_size 1 --rank 0"
PRETRAINING = (
    "--log_dir LOG --ckp_dir CKP -a I3D --dataset ucf101 --lr 0.01 -fpc 16 -cs 224 -b 64 -j 16 --cos --epochs 100 "
    f"--pos_ratio 0.7 {DISTRIBUTED}"
)
FINETUNING = (
    "--log_dir LOG --pretrained PRETRAINED -a I3D --seed 42 --num_class 101 --lr 0.01 --weight_decay 0.0001 "
    f"--lr_decay 0.1 -fpc 16 -b 16 -j 16 -cs 224 --finetune --epochs 150 --schedule 60 120 {DISTRIBUTED}"
)


def write_classes(root: Path, num_classes: int) -> None:
    for number in range(num_classes):
        (root / "data" / f"Class{number:03d}").mkdir(parents=True)
    (root / "anno").mkdir()
    (root / "data" / "Class000" / "v_Class000_g01_c01.avi").touch()


def write_ucf101(root: Path, num_classes: int = 101) -> Path:
    """The layout of UCF101 with its classes and one file, which is no video."""
    write_classes(root, num_classes)
    names = [f"{number + 1} Class{number:03d}" for number in range(num_classes)]
    (root / "anno" / "classInd.txt").write_text("\n".join(names))
    for name in ("trainlist01", "testlist01"):
        (root / "anno" / f"{name}.txt").write_text("Class000/v_Class000_g01_c01.avi 1\n")
    return root


def write_hmdb51(root: Path) -> Path:
    write_classes(root, 51)
    for number in range(51):
        touch(root, f"data/Class{number:03d}/clip.avi")
        (root / "anno" / f"Class{number:03d}_test_split1.txt").write_text("clip.avi 1\n")
    return root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the three data sets and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    write_ucf101(tmp_path / "UCF")
    write_hmdb51(tmp_path / "HMDB")
    touch(tmp_path, *(f"K400/train_256/{name}/clip.mp4" for name in ("abseiling", "zumba")), "PRETRAINED")
    return tmp_path


def translated(program: Program, line: str, *, processes: int = 1) -> Translation:
    return translate(program, parse_flags(program, shlex.split(line)), processes=processes)


def changed(translation: Translation) -> dict[str, object]:
    """The settings that are not the paper's."""
    config = translation.config
    published = replace(FinetuneConfig(), data=DataConfig(blur=0.0))
    defaults = flatten(PretrainConfig() if isinstance(config, PretrainConfig) else published)
    return {name: value for name, value in flatten(config).items() if value != defaults[name]}


def test_the_printed_pretraining_command(folder: Path) -> None:
    translation = translated("train", f"{PRETRAINING} UCF")
    assert shlex.join(translation.words) == (
        "pretrain UCF --out LOG --checkpoints CKP --model.backbone i3d --data.dataset ucf101 --data.workers 16 "
        "--optim.epochs 100 --optim.batch-size 64 --data.crop-size 224 --data.frames 16 --optim.lr 0.01 "
        "--method.pos-ratio 0.7 --optim.schedule cosine --method.queue-size 2240 --method.cell-queue-size 0"
    )
    assert changed(translation) == {
        "data.dataset": "ucf101",
        "data.workers": 16,
        "method.queue_size": 2240,
        "method.cell_queue_size": 0,
    }
    assert translation.remarks == []


def test_the_printed_pretraining_command_on_kinetics(folder: Path) -> None:
    translation = translated("train", f"{PRETRAINING} K400")
    assert translation.remarks == ["K400 IS NOT UCF101: it is read as what it looks like, `k400`"]
    expected = {"data.dataset": "k400", "method.queue_size": 65536, "method.cell_queue_size": 31360, "data.workers": 16}
    assert changed(translation) == expected


def test_the_printed_finetuning_command(folder: Path) -> None:
    translation = translated("eval", f"{FINETUNING} UCF")
    assert shlex.join(translation.words) == (
        "finetune PRETRAINED UCF --out LOG --classifier.backbone i3d --data.workers 16 --optim.epochs 150 "
        "--optim.batch-size 16 --data.crop-size 224 --data.frames 16 --optim.lr 0.01 --optim.decay 0.1 "
        "--optim.weight-decay 0.0001 --run.seed 42 --classifier.num-classes 101 --data.dataset ucf101 "
        "--optim.schedule step --optim.milestones 60 120"
    )
    assert changed(translation) == {
        "classifier.backbone": "i3d",
        "classifier.num_classes": 101,
        "data.dataset": "ucf101",
        "data.workers": 16,
        "run.seed": 42,
    }
    assert translation.remarks == []


def test_finetuning_on_hmdb51(folder: Path) -> None:
    line = FINETUNING.replace("--num_class 101", "--num_class 51")
    assert changed(translated("eval", f"{line} HMDB"))["classifier.dropout"] == 0.5
    assert changed(translated("eval", f"{line} HMDB"))["data.dataset"] == "hmdb51"
    assert changed(translated("eval", f"{line} --dropout 0.6 HMDB"))["classifier.dropout"] == 0.6
    on_another = translated("eval", f"{line} UCF")
    assert changed(on_another)["data.dataset"] == "ucf101"
    assert on_another.remarks == [
        "UCF IS NOT HMDB51: it is read as what it looks like, `ucf101`",
        "--num_class 51: UCF has 101 classes; the classifier gets 101",
    ]


def test_linear_probing(folder: Path) -> None:
    line = FINETUNING.replace("--finetune", "--freeze")
    translation = translated("eval", f"{line} UCF")
    assert changed(translation)["classifier.freeze"] is True
    assert "--classifier.freeze" in translation.words
    assert translation.remarks == []
    both = translated("eval", f"{FINETUNING} --freeze --dropout 0.3 UCF")
    assert changed(both)["classifier.freeze"] is True
    assert "classifier.dropout" not in changed(both)
    assert [remark.split(":")[0] for remark in both.remarks] == [
        "--dropout has no effect with --freeze",
        "--freeze and --finetune are given",
    ]


def test_evaluation_of_a_finetuned_checkpoint(folder: Path) -> None:
    line = FINETUNING.replace("--pretrained PRETRAINED", "-e --resume PRETRAINED -cpv 5 --ori_resolution 128")
    translation = translated("eval", f"{line} UCF", processes=8)
    assert shlex.join(translation.words) == (
        "evaluate PRETRAINED UCF --protocols evaluate --dataset ucf101 --backbone i3d --frames 16 --crop-size 224 "
        "--num-clips 5 --ori-resolution 128 --batch-size 16 --workers 2 --out LOG/evaluate.json"
    )
    expected = "with -e these have no effect: --epochs, --lr, --lr_decay, --schedule, --wd, --seed"
    assert translation.remarks == [expected]
    with pytest.raises(ConfigError, match="name its checkpoint with --resume"):
        translated("eval", "-e UCF")


@pytest.mark.parametrize("arch", ["I3D", "i3d", "r2plus1d_18", "R2PLUS1D_18", "r3d_18", "tiny"])
def test_architectures(arch: str, folder: Path) -> None:
    assert flatten(translated("train", f"-a {arch} UCF").config)["model.backbone"] == arch.lower()
    assert flatten(translated("eval", f"-a {arch} UCF").config)["classifier.backbone"] == arch.lower()


def test_every_value_arrives(folder: Path) -> None:
    line = (
        "-a r3d_18 --dataset k400 -j 3 --epochs 5 -b 7 -cs 64 -fpc 8 -sbc 2 --lr 0.3 --schedule 2 4 --lr_decay 0.5 "
        "--warmup 1 --wp_lr 0.001 --momentum 0.8 --wd 0.01 -p 3 --seed 9 --moco_dim 64 --moco_k 100 --moco_m 0.99 "
        "--moco_t 0.2 --dense_temperature 0.3 --pos_ratio 0.5 --clip_per_video 3 --dense_loss_weight 0.25 --gpu 1 K400"
    )
    assert changed(translated("train", line)) == {
        "model.backbone": "r3d_18", "data.dataset": "k400", "data.workers": 3, "optim.epochs": 5, "optim.batch_size": 7,
        "data.crop_size": 64, "data.frames": 8, "data.step_between_clips": 2, "optim.lr": 0.3, "optim.schedule": "step",
        "optim.milestones": [2, 4], "optim.decay": 0.5, "optim.warmup_epochs": 1, "optim.warmup_lr": 0.001,
        "optim.momentum": 0.8, "optim.weight_decay": 0.01, "run.log_steps": 3, "run.seed": 9, "model.embedding_dim": 64,
        "method.queue_size": 100, "method.cell_queue_size": 31360, "method.key_momentum": 0.99,
        "method.temperature": 0.2, "method.cell_temperature": 0.3, "method.pos_ratio": 0.5,
        "data.clip_sampling": "near", "method.cell_weight": 0.25, "run.device": "cuda:1",
    }  # fmt: skip


def test_flags_may_be_shortened_attached_and_written_in_full(folder: Path) -> None:
    short = changed(translated("train", "--epoch 5 --weight 0.2 -b32 -cs112 -fpc8 -sbc=3 -j2 --lr=0.5 UCF"))
    full = "--epochs 5 --weight_decay 0.2 --batch_size 32 --crop_size 112 --frame_per_clip 8 --step_between_clips 3"
    assert short == changed(translated("train", f"{full} --workers 2 --learning_rate 0.5 UCF"))
    assert short["optim.weight_decay"] == 0.2
    assert short["data.crop_size"] == 112
    assert changed(translated("eval", "-cpv3 UCF"))["test.clips"] == 3


def test_sizes_that_are_not_given_are_those_of_the_authors_program_whatever_the_checkpoint(folder: Path) -> None:
    settings = translated("eval", "--pretrained PRETRAINED --freeze UCF").settings
    assert (settings["data.frames"], settings["data.crop_size"]) == (16, 224)
    again = translated("eval", "--freeze --log_dir LOG --resume LOG/checkpoints/last.pt UCF").settings
    assert not again.keys() & {"data.frames", "data.crop_size"}, "a resumed run has sizes already"


@pytest.mark.parametrize(
    ("flags", "schedule", "remark"),
    [
        ("--cos", "cosine", None),
        ("--schedule 60 120", "step", None),
        ("--schedule 60 120 --cos", "cosine", "--cos and --schedule are given: --cos wins"),
        ("", None, "neither --cos nor --schedule is given"),
    ],
)
def test_schedules(flags: str, schedule: str | None, remark: str | None, folder: Path) -> None:
    training, finetuning = translated("train", f"UCF {flags}"), translated("eval", f"UCF {flags}")
    milestones = [60, 120] if schedule == "step" else []
    settings = flatten(training.config)
    assert (settings["optim.schedule"], settings["optim.milestones"]) == (schedule or "constant", milestones)
    settings = flatten(finetuning.config)
    expected = (schedule or "step", [60, 120] if schedule is None else milestones)
    assert (settings["optim.schedule"], settings["optim.milestones"]) == expected
    for translation in (training, finetuning):
        said = [text for text in translation.remarks if "--cos" in text]
        assert len(said) == (remark is not None)
        assert remark is None or said[0].startswith(remark)


def test_what_changes_nothing_is_said(folder: Path) -> None:
    remarks = translated("train", "--log_dir LOG --cos --lr_decay 0.1 --mlp --beta 2 --dist_backend nccl UCF").remarks
    assert [remark.split(":")[0].split(" without")[0] for remark in remarks] == [
        "--lr_decay has no effect",
        "--dist_backend has no effect",
        "--mlp has no effect",
        "--beta has no effect",
    ]
    words = (
        "--log_dir LOG --cos --resume --start_epoch 2 --gpu 1 --multiprocessing_distributed --warmup 0 --wp_lr 0.1 UCF"
    )
    resumed = translated("train", words)
    assert {"--start_epoch", "--gpu", "--wp_lr"} == {
        remark.split(" has no effect")[0] for remark in resumed.remarks if "has no effect" in remark
    }
    assert resumed.options == {"--out": "LOG", "--resume": None}
    assert not any("--wp_lr" in text for text in translated("train", "--cos --warmup 2 --wp_lr 0.1 UCF").remarks)
    tested = translated("eval", "-e --resume PRETRAINED --gpu 1 --multiprocessing_distributed UCF")
    assert tested.remarks == ["--gpu has no effect with --multiprocessing_distributed, which takes all GPUs"]
    remarks = translated("eval", "--log_dir LOG -a tiny --schedule 3 --start_epoch 2 UCF").remarks
    assert [remark.split(":")[0] for remark in remarks] == [
        "no --pretrained",
        "neither --finetune nor --freeze is given",
        "--start_epoch has no effect",
    ]


def test_places_and_checkpoints_to_continue(folder: Path) -> None:
    pretraining = translated("train", "-a tiny --cos UCF")
    assert pretraining.options == {"--out": "runs/official/pretrain-ucf101-tiny"}
    assert pretraining.remarks == ["no --log_dir: the run goes to runs/official/pretrain-ucf101-tiny"]
    assert translated("eval", "--freeze UCF").options == {"--out": "runs/official/linear-ucf101-i3d"}
    own = {"--out": "LOG", "--checkpoints": "CKP", "--resume": None}
    for line in ("--resume", f"--resume {folder}/CKP/last.pt"):
        assert translated("train", f"UCF --log_dir LOG --ckp_dir CKP {line}").options == own
    other = translated("train", "UCF --log_dir LOG --resume PRETRAINED --start_epoch 30").options
    assert other == {"--out": "LOG", "--resume-from": "PRETRAINED", "--start-epoch": "30"}
    (folder / "RUN" / "checkpoints").mkdir(parents=True)
    (folder / "RUN" / "config.yaml").touch()
    assert translated("train", "UCF --resume RUN/checkpoints/last.pt").options == {"--out": "RUN", "--resume": None}
    with pytest.raises(ConfigError, match="to begin from its encoder give it as --pretrained"):
        translated("eval", "UCF --log_dir LOG --resume PRETRAINED")


@pytest.mark.parametrize(
    ("program", "line", "message"),
    [
        ("train", "--epochs many UCF", "argument --epochs: invalid int value: 'many'"),
        ("train", "--epohcs 3 UCF", "unrecognized arguments: --epohcs"),
        ("train", "--moco 3 UCF", "ambiguous option: --moco could match --moco_dim"),
        ("train", "-a vgg UCF", "invalid choice: 'vgg'"),
        ("train", "--clip_per_video 4 UCF", "invalid choice: 4"),
        ("train", "--cos", "required: DIR; `python3 train.py --help`"),
        ("train", "--cos --resume UCF", "what stands right after --resume is taken for its checkpoint"),
        ("train", "--freeze UCF", "unrecognized arguments: --freeze"),
        ("train", "--lr -1 UCF", "--lr -1.0: must be 0 or more"),
        ("train", "-b 0 UCF", "--batch_size 0: must be at least 1"),
        ("train", "none", "none: no such folder"),
        ("train", "--resume none.pt UCF", "--resume none.pt: no such file"),
        ("eval", "--pretrained none.pt UCF", "--pretrained none.pt: no such file"),
        ("eval", "--pretrained UCF UCF", "--pretrained UCF: is a folder, not a checkpoint"),
        ("eval", "-e --resume none.pt UCF", "--resume none.pt: no such file"),
        ("train", "--dist_url localhost --world_size 2 UCF", "--dist_url localhost: give tcp://HOST:PORT"),
        ("train", "--dist_url tcp://localhost:x --world_size 2 UCF", "give tcp://HOST:PORT"),
        ("train", "--world_size 2 --rank 2 UCF", "--rank 2: must be from 0 to 1"),
        ("train", "--world_size 0 UCF", "--world_size 0: must be at least 1"),
    ],
)
def test_mistakes_are_one_line(
    program: Program, line: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(program, shlex.split(line)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("fima: error: ")
    assert output.err.count("\n") == 1
    assert message in output.err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for program in ("train", "eval"):
        assert main(program, ["--help"]) == 0
        page = capsys.readouterr().out
        assert all(name in page for flag in flags_of(program) for name in flag.names)


def row_of(flag: Flag) -> str:
    """The row of a flag in docs/official.md."""

    def cell(program: Program) -> str:
        meaning = flag.meaning(program) or ""
        return f"`{meaning}`" if flag.setting(program) else meaning

    return f"| {', '.join(f'`{name}`' for name in flag.names)} | {cell('train')} | {cell('eval')} | {flag.note} |"


def test_the_table_of_flags_is_that_of_the_page_and_its_settings_exist() -> None:
    table = "\n".join(["| official flag | `train.py` | `eval.py` | |", "|---|---|---|---|", *map(row_of, FLAGS)])
    assert table in (REPOSITORY / "docs" / "official.md").read_text(), f"put this into docs/official.md:\n{table}"
    defaults = {"train": flatten(PretrainConfig()), "eval": flatten(FinetuneConfig())}
    for flag in FLAGS:
        for program, known in defaults.items():
            setting = flag.setting(program)  # type: ignore[arg-type]
            assert setting is None or setting in known, flag.names


def test_messages_have_the_names_of_this_command_line() -> None:
    message = "--out LOG: already holds a run; continue it with --resume, or choose another --out"
    assert reworded("train", message) == message.replace("--out", "--log_dir")
    assert reworded("train", "--optim.batch_size 3: x, --optim.batch-size, --run.x") == (
        "--batch_size 3: x, --batch_size, --run.x"
    )
    assert reworded("eval", "--classifier.backbone, --num-clips, --test.clips") == (
        "--arch, --clip_per_video, --clip_per_video"
    )
