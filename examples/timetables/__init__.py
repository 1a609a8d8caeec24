"""Timetables for the key `timetable` of a file in dags/retraining: copy one into your own package, and change it."""
