"""Training, fine-tuning and measuring a model.

Read `config`, `step`, `train`; then `devices`, `run_folder` and `journal`, which `train` uses.
`finetune` makes the configuration of a short run, `evaluate` measures held-out music.
"""
