"""A small PyTorch network for raw sound, exported so that `speech-emotion train bundle` takes it.

    python pytorch_model.py model.onnx     # or model.pt2
    speech-emotion train bundle --model model.onnx --spec pytorch_model.toml \\
        --labels angry,happy,neutral,sad --out models/mine

The network takes the samples of one window, (1, 1, samples), and gives one logit per label. Its
weights are seeded noise: put your trained network in its place. docs/ANY_MODEL.md explains the
steps. It needs torch, and for .onnx onnxscript.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    print(f"pytorch_model: {error.name} is missing; pip install torch onnxscript", file=sys.stderr)
    sys.exit(2)

LABELS = 4


class SoundNetwork(nn.Module):
    """Strided convolutions over the samples, then mean and deviation over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 16, kernel_size=400, stride=160),
            nn.ReLU(),
            nn.BatchNorm1d(16),
            nn.Conv1d(16, 24, kernel_size=5, stride=2),
            nn.ReLU(),
        )
        self.head = nn.Linear(48, LABELS)

    def forward(self, sound: Tensor) -> Tensor:
        """Logits (batch, labels) for samples of -1 to 1, (batch, 1, samples)."""
        level = sound.square().mean(dim=2, keepdim=True).sqrt()
        hidden = self.layers(sound / (level + 1e-4))
        deviation = (hidden.var(dim=2, unbiased=False) + 1e-6).sqrt()
        return self.head(torch.cat([hidden.mean(dim=2), deviation], dim=1))


def main() -> None:
    """Write the network in the format that the file's suffix names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="model.onnx or model.pt2")
    parser.add_argument("--samples", type=int, default=16000, help="of a window: window_s * rate")
    arguments = parser.parse_args()
    torch.manual_seed(1)
    model = SoundNetwork().eval()  # without eval() dropout and batch statistics stay random
    window = torch.zeros(1, 1, arguments.samples)
    program = torch.export.export(model, (window,))
    if arguments.out.suffix == ".pt2":
        torch.export.save(program, arguments.out)
    else:
        torch.onnx.export(program, f=arguments.out, dynamo=True, external_data=False)
    print(f"wrote {arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
