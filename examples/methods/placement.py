"""Print the layers that a search has placed: python placement.py RUN

RUN was trained with model.encoder=language_layers model.encoder.search=true. Each layer becomes what has the largest
weight in its mixture: shared, by source language, or by target language.
"""

import sys

from s2s.checkpoint.loading import load_model


def main(run: str) -> None:
    """Print the weights of each layer, and the options of the placement."""
    model, _, _ = load_model(run, "cpu")
    places: dict[str, list[int]] = {"shared": [], "source": [], "target": []}
    for number, layer in enumerate(model.encoder.layers, 1):
        shares = dict(zip(places, layer.weights.softmax(0).tolist(), strict=True))
        print(f"layer {number}: " + ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items()))
        places[max(shares, key=shares.__getitem__)].append(number)
    options = [f"model.encoder.{kind}_layers={str(numbers).replace(' ', '')}"
               for kind, numbers in places.items() if numbers and kind != "shared"]  # fmt: skip
    print(" ".join(["model.encoder=language_layers", *options]) if options else "all layers are shared")


if __name__ == "__main__":
    main(sys.argv[1])
