"""The executor: a plan in, an adapter out. Never imports `lorac`, never sees a spec."""
