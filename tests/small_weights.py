"""Small weights of the kinds that people bring, made by hand."""

import json
from pathlib import Path

import torch


def mapper_checkpoint(levels=("course", "medium", "fine"), seed=0, **opts):
    """A checkpoint as StyleCLIP's coach saves it: weights divided by the learning rate multiplier."""
    generator = torch.Generator().manual_seed(seed)
    state = {"decoder.conv1.noise.weight": torch.zeros(1)}
    for level in levels:
        for i in range(1, 5):
            prefix = f"mapper.{level}_mapping.mapping.{i}"
            state[f"{prefix}.weight"] = torch.randn(512, 512, generator=generator) / 0.01
            state[f"{prefix}.bias"] = torch.randn(512, generator=generator)
    options = {"mapper_type": "LevelsMapper", "description": "surprised", "lr": 0.5, "checkpoint_path": None, **opts}
    options |= {f"no_{name}_mapper": key not in levels for name, key in
                (("coarse", "course"), ("medium", "medium"), ("fine", "fine"))}  # fmt: skip
    return {"state_dict": state, "opts": options}


def write_clip(folder: Path) -> None:
    """A CLIP of the real architecture with few channels, saved as on the Hub: config, weights, tokenizer."""
    import transformers

    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    words = {**size, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 77}
    pictures = {**size, "image_size": 64, "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=words, vision_config=pictures, projection_dim=24)
    transformers.CLIPModel(config).save_pretrained(folder)
