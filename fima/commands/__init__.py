"""The subcommands of `fima`, one module each; this table names them, in the order of use, and imports none.

A command imports PyTorch, and what needs it, after its flags are parsed: help and a mistyped flag need not wait for it.
"""

COMMANDS = {
    "doctor": ("fima.commands.doctor", "check a folder of videos: what is there, what cannot be used, what to do"),
    "contact-sheet": ("fima.commands.contact_sheet", "picture the videos of a folder"),
    "prepare": ("fima.commands.prepare", "rewrite a folder of videos so that random clips decode fast"),
    "pretrain": ("fima.commands.pretrain", "pre-train an encoder on a folder of unlabelled videos"),
    "report": ("fima.commands.report", "write one page about runs: curves, results, galleries"),
    "evaluate": ("fima.commands.evaluate", "measure a checkpoint: linear probe, kNN, retrieval"),
    "compare": ("fima.commands.compare", "measure several encoders on the same videos: one table, with intervals"),
    "cam": ("fima.commands.cam", "show where a checkpoint looks in videos, two checkpoints side by side"),
    "motion": ("fima.commands.motion", "picture what the losses align in a video"),
    "embed": ("fima.commands.embed", "write the vectors of videos, clips or seconds to a file"),
    "search": ("fima.commands.search", "find the videos or moments that are nearest to a video"),
    "finetune": ("fima.commands.finetune", "train a classifier on a checkpoint's encoder, or only its linear layer"),
    "predict": ("fima.commands.predict", "name the classes of videos with a classifier of `fima finetune`"),
    "export": ("fima.commands.export", "write an encoder for other programs: safetensors, torch.export, ONNX"),
    "convert": ("fima.commands.convert", "convert checkpoints from and to the authors' program"),
    "benchmark": ("fima.commands.benchmark", "measure how fast this machine decodes and trains, without any data"),
    "demo": ("fima.commands.demo", "compare FIMA with MoCo on synthetic videos, in minutes, and show the result"),
    "make-data": ("fima.commands.make_data", "write a synthetic data set in which motion is the class"),
    "make-encoder": ("fima.commands.make_encoder", "train the shipped encoder again, on rendered people"),
    "completion": ("fima.commands.completion", "print a script that completes commands and options in a shell"),
}
