"""What lies on disk: repositories, versions, operators' settings. May import config, the nouns; see repository.py."""
