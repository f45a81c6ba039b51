"""Run the executable from the source tree: `python -m cni`."""

from cni import forward

if __name__ == "__main__":
    forward.main()
