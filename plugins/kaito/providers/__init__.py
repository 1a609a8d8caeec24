"""Who makes GPU machines: one module a provider, all behind the protocol of `base`; `registry` knows them all."""
