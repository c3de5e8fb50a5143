"""`python -P -m api`: serve the API with gunicorn, as the settings say, whatever else the environment holds."""

from __future__ import annotations

from shared.entry import begin
from shared.settings import Settings

APPLICATION = "api.wsgi:app"


def serve(application: str = APPLICATION) -> None:
    """Serve until a signal stops it. gunicorn gets no module from the working directory, and its options from here."""
    begin(Settings)  # first: gunicorn reads some of the environment when it is imported
    from gunicorn.app.base import BaseApplication
    from gunicorn.util import import_app

    from api import gunicorn_conf

    class Application(BaseApplication):  # type: ignore[misc]  # published without types
        """What gunicorn runs. gunicorn's own command would search the working directory for modules first."""

        def load_config(self) -> None:
            for name in self.cfg.settings.keys() & vars(gunicorn_conf).keys():
                self.cfg.set(name, getattr(gunicorn_conf, name))

        def load(self) -> object:
            return import_app(application)

    Application().run()


if __name__ == "__main__":
    serve()
