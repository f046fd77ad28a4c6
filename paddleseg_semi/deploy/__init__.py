"""Exported segmenters at work: `bundle` reads them, `backends` run them, `segment` prepares photos and reads outputs,
`results` writes."""
