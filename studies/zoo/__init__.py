"""MMDetection's shipped configs, audited: does structure find what numbers prove?"""
