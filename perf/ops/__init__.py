"""One file per op family: `cases(setting)` lists its cases, `sweeps(setting)` those that run over many sizes."""
