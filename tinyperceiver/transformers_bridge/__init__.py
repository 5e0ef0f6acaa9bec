"""The way to this model through the Transformers library, as on the model's card.

`import tinyperceiver.huggingface` registers the model's type with `AutoConfig` and
`AutoModelForCausalLM`, and the task "symbolic-audio-generation" with `pipeline`:

    from transformers import pipeline
    import tinyperceiver.huggingface

    audio_generator = pipeline("symbolic-audio-generation", model=repo_id)

In place of a model id you can give a folder that `PerceiverAR.save_pretrained` or a run of
training wrote. For the shipped model give `tinyperceiver.huggingface.TINY`, its folder:
Transformers looks on the hub for every name that is not a folder, also for "tiny".

Classes are called as in the library that trained the released model. They are thin:
`model` leaves reading and writing to `tinyperceiver.checkpoints`, and `audio_pipeline` leaves
the prompts to `tinyperceiver.music_pipeline`.
"""

try:
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(f"this is {transformers.__version__}")
except ImportError as error:
    raise ImportError(
        "tinyperceiver.huggingface needs Transformers 5 or newer: pip install -U "
        f'"tinyperceiver[transformers]" ({error})'
    ) from error
