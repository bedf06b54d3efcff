_base_ = '../../shapes/_base_/three_stages.py'
