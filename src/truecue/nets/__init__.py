"""Networks: plain modules; `build` turns a name into one."""
