"""How models are called: ours, those of ``transformers``, any other. Each way fills in a spec."""
