"""Where objects live, how they are selected and watched. It knows nothing of what any kind means."""
