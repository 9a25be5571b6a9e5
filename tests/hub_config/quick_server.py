"""``jupyterhub-singleuser``, which looks at what computes twice a second."""

from jupyterhub.singleuser import main

from flautim_lab.jupyter import activity

activity.LOOK_SECONDS = 0.5

if __name__ == "__main__":
    main()
