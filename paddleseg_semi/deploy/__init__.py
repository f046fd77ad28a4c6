"""Exported segmenters at work: `bundle` reads them, `backends` run them, `segment` prepares photos and reads outputs,
`results` writes."""

import paddleseg_semi

paddleseg_semi.register()  # whatever uses PaddleSeg from here on uses it repaired, with all components
