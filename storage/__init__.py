"""Where bytes live: the activation store, artifacts and manifests, checkpoints."""
