"""Write data_pipeline/documents/languages.tsv from Linguist's table of languages, when it is to be a newer one.

npm pack linguist-languages && tar xzf linguist-languages-*.tgz
node -e 'import("./package/index.js").then(all => console.log(JSON.stringify(Object.values(all))))' > linguist.json
python docs/languages.py linguist.json VERSION
"""

import json
import sys
from pathlib import Path

TABLE = Path(__file__).parents[1] / "data_pipeline" / "documents" / "languages.tsv"
SHORT = {
    "C++": "cpp",
    "C#": "csharp",
    "Gettext Catalog": "gettext",
    "Jupyter Notebook": "notebook",
}
"""Names that specs use in place of Linguist's."""
HEAD = """\
# Languages of GitHub's Linguist {version} (MIT licence, https://github.com/github-linguist/linguist), as the package
# linguist-languages restates them; written by docs/languages.py. Columns: name here, Linguist's name, type, aliases,
# endings, file names, interpreters; entries of a column are separated by `|`.
"""


def table(languages: list[dict[str, object]], version: str) -> str:
    """The table as text: one line for each language, by name."""
    lines = []
    for language in languages:
        name = str(language["name"])
        columns = [SHORT.get(name, name.lower()), name, str(language["type"])]
        for key in ("aliases", "extensions", "filenames", "interpreters"):
            columns.append("|".join(language.get(key, ())))  # type: ignore[call-overload]
        lines.append("\t".join(columns))
    return HEAD.format(version=version) + "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    TABLE.write_text(table([one for one in found if "name" in one], sys.argv[2]), "utf-8")
