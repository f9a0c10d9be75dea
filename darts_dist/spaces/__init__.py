"""What is searched: one module a space, and the rules that turn trained alphas into a genotype."""
