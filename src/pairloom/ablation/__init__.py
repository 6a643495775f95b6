"""The paper's experiments on anyone's data: a grid of ordinary runs, its table, its figure, its verdict."""
