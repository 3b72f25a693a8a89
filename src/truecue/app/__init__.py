"""The web app: look at an audit, judge its features, see what the verdicts say."""
