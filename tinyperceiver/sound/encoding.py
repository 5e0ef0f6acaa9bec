"""Sound as the bytes of a WAV or MP3 file."""

import io
import os
import wave
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.sound.synthesis import render

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["mp3_bytes", "wav_bytes"]


def wav_bytes(audio: "PrettyMIDI | np.ndarray", sample_rate: int = 44_100) -> bytes:
    """Return a WAV file, 16 bits, mono: 5.3 MB a minute.

    Args:
        audio: music to render, or samples, (N,); those outside [-1, 1] are clipped.
        sample_rate: in Hz; for samples, the rate at which they were rendered.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: samples that are not floating-point numbers, not finite or not (N,), or a bad
            sample rate; or as `render`.
    """
    samples = np.clip(_to_samples(audio, sample_rate), -1, 1) * np.float32(
        32_767
    )  # (N,)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(samples, out=samples).astype("<i2").tobytes())
    return buffer.getvalue()


def mp3_bytes(audio: "PrettyMIDI | np.ndarray", sample_rate: int = 22_050) -> bytes:
    """Return an MP3 file, mono, of about 40 kbit/s at the default rate: 0.3 MB a minute.

    Args:
        audio, sample_rate: as `wav_bytes`, but MP3 knows only nine rates: 8000, 11025, 12000,
            16000, 22050, 24000, 32000, 44100 and 48000 Hz.

    Returns:
        The bytes of the file; b"" if there are no samples.

    Raises:
        ValueError: a sample rate that MP3 does not have; or as `wav_bytes`.
    """
    import soundfile

    rates = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
    if sample_rate not in rates:
        raise ValueError(
            f"sample_rate must be one of MP3's, {rates} Hz, not {sample_rate!r}"
        )
    samples = _to_samples(audio, sample_rate)
    buffer = io.BytesIO()
    if len(samples):
        # Only "AVERAGE" and "VARIABLE" write down the exact length, which players show.
        options = {"bitrate_mode": "AVERAGE", "compression_level": 0.75}
        soundfile.write(buffer, samples, int(sample_rate), format="MP3", **options)
    return buffer.getvalue()


def _to_samples(audio: "PrettyMIDI | np.ndarray", sample_rate: int) -> np.ndarray:
    if hasattr(audio, "instruments") or isinstance(audio, (str, os.PathLike)):
        return render(audio, sample_rate)
    samples = np.asarray(audio)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(
            f"audio must be a PrettyMIDI or floating-point samples of shape (N,), not "
            f"{samples.dtype} of shape {samples.shape}"
        )
    if not np.isfinite(samples).all():
        raise ValueError("audio holds samples that are not finite (NaN or infinite)")
    if not sample_rate >= 1:
        raise ValueError(f"sample_rate must be positive, in Hz, not {sample_rate!r}")
    return samples.astype(np.float32, copy=False)
