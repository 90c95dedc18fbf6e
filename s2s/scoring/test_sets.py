"""sacrebleu's test sets by name: the published references and sources of WMT, IWSLT and others."""

import contextlib
import io
import logging
from pathlib import Path

from s2s import registry
from s2s.errors import UserError


def files(test_set: str, langpair: str | None) -> tuple[Path, list[Path]]:
    """The source file and the reference files of a test set, in sacrebleu's cache. If they are not there, sacrebleu
    downloads them.

    Args:
        test_set: sacrebleu's name of it, such as wmt20.
        langpair: Language pair, such as en-de.

    Raises:
        UserError: there is no such test set or language pair, or it is not in the cache and cannot be downloaded.
    """
    from sacrebleu.dataset import DATASETS  # imported here, since few calls need it
    from sacrebleu.utils import SACREBLEU_DIR

    if test_set not in DATASETS:
        raise UserError(
            f"test_set={test_set}: sacrebleu has no such test set; {registry.nearest(test_set, [*DATASETS])}"
        )
    dataset = DATASETS[test_set]
    if langpair not in dataset.langpairs:
        pairs = ", ".join(sorted(dataset.langpairs))
        raise UserError(f"test_set={test_set} needs langpair=, one of its language pairs: {pairs}")
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("sacrebleu").addHandler(handler)
    try:
        with contextlib.redirect_stderr(said):
            source, references = dataset.get_source_file(langpair), dataset.get_reference_files(langpair)
    except (Exception, SystemExit) as error:  # sacrebleu has no errors of its own
        reason = said.getvalue().strip().splitlines()[-1:] if isinstance(error, SystemExit) else [str(error)]
        raise UserError(
            f"test_set={test_set} langpair={langpair}: not in sacrebleu's cache, {SACREBLEU_DIR}, and it cannot be "
            f"downloaded: {' '.join(reason)}; on a machine with network, "
            f"'sacrebleu --download {test_set} -l {langpair}' fills the cache, which can be copied here"
        ) from error
    finally:
        logging.getLogger("sacrebleu").removeHandler(handler)
    return Path(source), list(map(Path, references))
