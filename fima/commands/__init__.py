"""The subcommands of `fima`, one module each; this table names them, in the order of use, and imports none.

A command imports PyTorch, and what needs it, after its flags are parsed: help and a mistyped flag need not wait for it.
"""

COMMANDS = {
    "doctor": "check a folder of videos: what is there, what cannot be used, what to do",
    "contact-sheet": "show the videos of a folder in one picture",
    "prepare": "rewrite a folder of videos so that random clips decode fast",
    "pretrain": "pre-train an encoder on a folder of unlabelled videos",
    "report": "write a one-page report on runs: curves, results, galleries",
    "evaluate": "evaluate a checkpoint: linear probe, kNN, retrieval",
    "compare": "evaluate several encoders on the same videos: one table, with intervals",
    "cam": "show where a checkpoint looks in videos, two checkpoints side by side",
    "motion": "show what the losses align in a video, in one picture",
    "embed": "write the vectors of videos, clips or seconds to a file",
    "search": "find the videos or moments that are nearest to a video",
    "finetune": "train a classifier on a checkpoint's encoder, or only its linear layer",
    "predict": "predict the classes of videos with a classifier of `fima finetune`",
    "export": "write an encoder for other programs: safetensors, torch.export, ONNX",
    "convert": "convert checkpoints from and to the authors' program",
    "benchmark": "measure how fast this machine decodes and trains, without any data",
    "demo": "compare FIMA with MoCo on synthetic videos, in minutes, and show the result",
    "make-data": "write a synthetic data set in which motion is the class",
    "make-encoder": "train the shipped encoder again, on rendered people",
    "completion": "print a script that completes commands and options in a shell",
}
