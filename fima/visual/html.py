"""Pages from Jinja2 templates; whatever is put into one of HTML is escaped."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def render(package: str, template: str, /, **context: object) -> str:
    """Fill in a file in `templates` of a package, such as `fima.use`; text in HTML is escaped unless `Markup`."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Of the filter `tojson`, which also escapes all that could end a script.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template(template).render(context)


def script(text: str) -> Markup:
    """Return a trusted script as the content of a `script` element, which nothing in it can end."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
