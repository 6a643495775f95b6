"""The human study: real or fake, in a browser. What is shown, to whom, and what they answered.

Source: Section 4.1 of the paper; the protocol is that of its original tool, AMT_Real_vs_Fake.
"""
