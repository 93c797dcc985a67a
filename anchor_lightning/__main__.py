"""`python -m anchor_lightning {fit,validate,test,predict} --config NAME.yaml`."""

from anchor_lightning.cli import main

if __name__ == "__main__":
    main()
