"""edge. `python -m gateway.cli`: the command `gateway`, as `gateway dev` starts it."""

from gateway.cli import main

if __name__ == "__main__":
    main(prog_name="gateway")
