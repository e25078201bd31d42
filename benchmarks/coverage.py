"""The coverage table of docs/results/decomposition.md: python -m benchmarks.coverage."""

from tests.scramble.measures.updates.simulated import STARTS, coverage, independent

SIMULATIONS = 2000

if __name__ == "__main__":
    found = coverage(
        (
            ({"start": kind, "density": density}, independent(kind, density))
            for kind in STARTS
            for density in (0.02, 0.1, 0.3, 0.6)
        ),
        SIMULATIONS,
    )
    print((100 * found.pivot(index="start", columns="density", values="covered")).round(1).to_string())
    print(f"largest mean share: {found['coordinate_share'].abs().max():.4f}")
